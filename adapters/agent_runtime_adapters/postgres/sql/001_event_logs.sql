-- Logs of events. Each function that changes a log has its row first: the events belong to whoever has it.

-- The events from `first` to `last` are kept, `size` bytes of them. `operation` appended last.
CREATE TABLE agent_runtime.event_logs (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id text COLLATE "C" NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    stream text COLLATE "C" NOT NULL,
    first bigint NOT NULL DEFAULT 1,
    last bigint NOT NULL DEFAULT 0,
    size bigint NOT NULL DEFAULT 0,
    operation text COLLATE "C" NOT NULL DEFAULT '',
    closed boolean NOT NULL DEFAULT false,
    expires_at double precision NOT NULL,
    UNIQUE (tenant_id, user_id, stream)
);

CREATE INDEX event_logs_expires_at ON agent_runtime.event_logs (expires_at);

CREATE TABLE agent_runtime.events (
    log bigint NOT NULL,
    sequence bigint NOT NULL,
    data bytea NOT NULL,
    PRIMARY KEY (log, sequence)
);

-- The events of a log go with it, however it goes.
CREATE FUNCTION agent_runtime.event_log_deleted() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
BEGIN
    DELETE FROM agent_runtime.events WHERE log = old.id;
    RETURN NULL;
END
$$;

CREATE TRIGGER event_log_deleted AFTER DELETE ON agent_runtime.event_logs
    FOR EACH ROW EXECUTE FUNCTION agent_runtime.event_log_deleted();

CREATE FUNCTION agent_runtime.event_logs_free(t double precision) RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_bitmapscan = off AS $$
BEGIN
    DELETE FROM agent_runtime.event_logs WHERE id = ANY (ARRAY(
        SELECT id FROM agent_runtime.event_logs WHERE expires_at <= t LIMIT 10 FOR UPDATE SKIP LOCKED
    ));
END
$$;

-- Drop the oldest events until the others are within the bounds; the log as it is then.
CREATE FUNCTION agent_runtime.event_log_bounded(l agent_runtime.event_logs, max_events bigint, max_bytes bigint)
RETURNS agent_runtime.event_logs LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    dropped bigint;
BEGIN
    WHILE l.last - l.first >= max_events OR l.size > max_bytes LOOP
        DELETE FROM agent_runtime.events WHERE log = l.id AND sequence = l.first
        RETURNING octet_length(data) INTO dropped;
        IF NOT FOUND THEN
            RAISE data_corrupted USING MESSAGE = 'an event is missing';
        END IF;
        l.first := l.first + 1;
        l.size := l.size - dropped;
    END LOOP;
    RETURN l;
END
$$;

-- `skipped` events come before those in `added`, and alone are more than the log keeps.
CREATE FUNCTION agent_runtime.event_log_append(
    the_tenant text, the_user text, the_stream text, clock double precision, added bytea[], skipped bigint, expected bigint,
    ttl double precision, the_operation text, closes boolean, max_events bigint, max_bytes bigint,
    OUT answer bigint, OUT refusal text
) LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    t double precision := agent_runtime.moment(clock);
    l agent_runtime.event_logs;
BEGIN
    IF expected = 0 THEN
        INSERT INTO agent_runtime.event_logs AS there (tenant_id, user_id, stream, expires_at)
        VALUES (the_tenant, the_user, the_stream, t + ttl)
        ON CONFLICT (tenant_id, user_id, stream) DO UPDATE SET last = there.last WHERE false; -- locked all the same
    END IF;
    SELECT * INTO l FROM agent_runtime.event_logs
     WHERE tenant_id = the_tenant AND user_id = the_user AND stream = the_stream FOR UPDATE;
    t := agent_runtime.moment(clock);
    IF (l.expires_at > t) IS NOT TRUE THEN
        IF expected > 0 THEN
            refusal := 'missing';
            RETURN;
        END IF;
        DELETE FROM agent_runtime.events WHERE log = l.id;
        l.first := 1; l.last := 0; l.size := 0; l.closed := false;
    ELSIF l.operation = the_operation THEN
        answer := l.last;
        RETURN;
    ELSIF l.closed OR l.last <> expected THEN
        refusal := CASE WHEN l.closed THEN 'closed' ELSE 'changed' END;
        RETURN;
    END IF;
    IF skipped > 0 THEN
        DELETE FROM agent_runtime.events WHERE log = l.id;
        l.last := l.last + skipped; l.first := l.last + 1; l.size := 0;
    END IF;
    INSERT INTO agent_runtime.events (log, sequence, data)
    SELECT l.id, l.last + place, event FROM unnest(added) WITH ORDINALITY AS new (event, place);
    l.last := l.last + cardinality(added);
    l.size := l.size + (SELECT coalesce(sum(octet_length(event)), 0) FROM unnest(added) AS new (event));
    l := agent_runtime.event_log_bounded(l, max_events, max_bytes);
    UPDATE agent_runtime.event_logs
       SET first = l.first, last = l.last, size = l.size, operation = the_operation, closed = closes, expires_at = t + ttl
     WHERE id = l.id;
    PERFORM agent_runtime.event_logs_free(t);
    answer := l.last;
END
$$;

CREATE FUNCTION agent_runtime.event_log_read(
    the_tenant text, the_user text, the_stream text, clock double precision, seen bigint, most bigint
) RETURNS TABLE (found_first bigint, found_last bigint, found_closed boolean, found bytea[]) LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    t double precision := agent_runtime.moment(clock);
BEGIN
    RETURN QUERY SELECT l.first, l.last, l.closed, ARRAY(
        SELECT e.data FROM agent_runtime.events AS e WHERE e.log = l.id AND e.sequence > seen AND e.sequence >= l.first
         ORDER BY e.sequence LIMIT most
    ) FROM agent_runtime.event_logs AS l
     WHERE l.tenant_id = the_tenant AND l.user_id = the_user AND l.stream = the_stream AND l.expires_at > t;
END
$$;

-- One log, or all of the owner's; how many there were. What had expired goes with them, and is not counted.
CREATE FUNCTION agent_runtime.event_log_delete(
    the_tenant text, the_user text, the_stream text, clock double precision
) RETURNS bigint LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    t double precision := agent_runtime.moment(clock);
    gone bigint[];
    answer bigint;
BEGIN
    -- In one order: two of these do not wait for each other in a ring.
    gone := ARRAY(
        SELECT id FROM agent_runtime.event_logs
         WHERE tenant_id = the_tenant AND user_id = the_user AND stream = coalesce(the_stream, stream)
         ORDER BY id FOR UPDATE
    );
    WITH deleted AS (DELETE FROM agent_runtime.event_logs WHERE id = ANY (gone) RETURNING expires_at)
    SELECT count(*) INTO answer FROM deleted WHERE expires_at > t;
    RETURN answer;
END
$$;
