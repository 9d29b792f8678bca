-- Rate limits, counted as `RateCell` counts them, so that from the levels the caller can tell what was decided here.

-- `key` is the SHA-256 of the key's parts. Nothing of the burst is used any more from `empty_at` on. `due` is when
-- `rate_cells_free` looks at it, at the latest `empty_at`: that changes with each charge, and the index of `due` only when
-- somebody has looked.
CREATE TABLE agent_runtime.rate_cells (
    key bytea PRIMARY KEY,
    level double precision NOT NULL,
    at double precision NOT NULL,
    empty_at double precision NOT NULL,
    due double precision NOT NULL
) WITH (fillfactor = 70);

CREATE INDEX rate_cells_due ON agent_runtime.rate_cells (due);

CREATE FUNCTION agent_runtime.drained(
    level double precision, at double precision, speed double precision, t double precision
) RETURNS double precision LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN t > at THEN greatest(level - (t - at) * speed, 0) ELSE coalesce(level, 0) END
$$;

-- When a cell of this level is empty, where a level as high as `ceiling` takes `span` seconds. A quotient that becomes too
-- small for a number is an error in PostgreSQL: the least here is a billionth.
CREATE FUNCTION agent_runtime.empty_at(
    level double precision, ceiling double precision, span double precision, t double precision
) RETURNS double precision LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN level > 0 THEN t + span * (greatest(level, ceiling * 1e-9) / ceiling) ELSE t END
$$;

-- The levels at `t`, in the order of the keys; whether the costs fit, and whether a cell is of a time that is still to come.
CREATE FUNCTION agent_runtime.rate_levels(
    keys bytea[], costs double precision[], speeds double precision[], ceilings double precision[], t double precision,
    OUT levels double precision[], OUT fit boolean, OUT ahead boolean
) LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
BEGIN
    SELECT array_agg(now.level ORDER BY place), bool_and(now.level + cost <= ceiling), bool_or(cell.at > t)
      INTO levels, fit, ahead
      FROM unnest(keys, costs, speeds, ceilings) WITH ORDINALITY AS asked (key, cost, speed, ceiling, place)
      LEFT JOIN LATERAL (
          SELECT level, at FROM agent_runtime.rate_cells WHERE rate_cells.key = asked.key OFFSET 0
      ) AS cell ON true
     CROSS JOIN LATERAL (SELECT agent_runtime.drained(cell.level, cell.at, speed, t) AS level OFFSET 0) AS now;
END
$$;

-- Have the cells of the keys, new ones where there are none. In one order, so that no two wait for each other in a ring.
CREATE FUNCTION agent_runtime.rate_locked(keys bytea[], t double precision) RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
BEGIN
    INSERT INTO agent_runtime.rate_cells AS cell (key, level, at, empty_at, due)
    SELECT DISTINCT asked.key, 0, t, t, 'infinity'::double precision FROM unnest(keys) AS asked (key) ORDER BY asked.key
    ON CONFLICT (key) DO UPDATE SET level = cell.level WHERE false; -- locked all the same
END
$$;

CREATE FUNCTION agent_runtime.rate_cells_free(t double precision) RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_bitmapscan = off AS $$
BEGIN
    DELETE FROM agent_runtime.rate_cells WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM agent_runtime.rate_cells
         WHERE due <= t AND empty_at <= t LIMIT 100 FOR UPDATE SKIP LOCKED
    ));
    UPDATE agent_runtime.rate_cells SET due = empty_at WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM agent_runtime.rate_cells
         WHERE due <= t AND empty_at > t LIMIT 100 FOR UPDATE SKIP LOCKED
    ));
END
$$;

CREATE FUNCTION agent_runtime.rate_peek(
    keys bytea[], costs double precision[], speeds double precision[], ceilings double precision[], clock double precision
) RETURNS double precision[] LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (agent_runtime.rate_levels(keys, costs, speeds, ceilings, agent_runtime.moment(clock))).levels;
END
$$;

-- The levels as they were before. What does not fit is only read: nothing of it goes to the disk. What may fit is looked at
-- again under the locks, and at the time that it is then, so that nobody's time is later.
CREATE FUNCTION agent_runtime.rate_take(
    keys bytea[], costs double precision[], speeds double precision[], ceilings double precision[], clock double precision,
    spans double precision[]
) RETURNS double precision[] LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    t double precision := agent_runtime.moment(clock);
    seen record;
BEGIN
    seen := agent_runtime.rate_levels(keys, costs, speeds, ceilings, t);
    IF NOT (seen.fit OR seen.ahead) THEN
        RETURN seen.levels;
    END IF;
    PERFORM agent_runtime.rate_locked(keys, t);
    t := agent_runtime.moment(clock);
    seen := agent_runtime.rate_levels(keys, costs, speeds, ceilings, t);
    UPDATE agent_runtime.rate_cells AS cell
       SET level = new.level, at = t, empty_at = new.empty_at, due = least(cell.due, new.empty_at)
      FROM (
          SELECT key, level, agent_runtime.empty_at(level, ceiling, span, t) AS empty_at FROM (
              SELECT key, level + CASE WHEN seen.fit THEN cost ELSE 0 END AS level, ceiling, span
                FROM unnest(keys, seen.levels, costs, ceilings, spans) AS asked (key, level, cost, ceiling, span)
          ) AS taken
      ) AS new
     WHERE cell.key = new.key;
    PERFORM agent_runtime.rate_cells_free(t);
    RETURN seen.levels;
END
$$;

-- One after the other: a key may be among them more than once.
CREATE FUNCTION agent_runtime.rate_settle(
    keys bytea[], costs double precision[], speeds double precision[], ceilings double precision[], clock double precision,
    spans double precision[], used double precision[]
) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    t double precision;
    new_level double precision;
    new_empty_at double precision;
BEGIN
    PERFORM agent_runtime.rate_locked(keys, agent_runtime.moment(clock));
    t := agent_runtime.moment(clock);
    FOR n IN 1..cardinality(keys) LOOP
        SELECT greatest(agent_runtime.drained(level, at, speeds[n], t) + used[n] - costs[n], 0) INTO new_level
          FROM agent_runtime.rate_cells WHERE key = keys[n];
        new_empty_at := agent_runtime.empty_at(new_level, ceilings[n], spans[n], t);
        UPDATE agent_runtime.rate_cells
           SET level = new_level, at = t, empty_at = new_empty_at, due = least(due, new_empty_at)
         WHERE key = keys[n];
    END LOOP;
    PERFORM agent_runtime.rate_cells_free(t);
END
$$;
