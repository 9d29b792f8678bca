-- Sessions, as they are found, changed, removed and expired.

CREATE FUNCTION agent_runtime.session_read(the_tenant text, the_user text, the_id text, clock double precision)
RETURNS SETOF agent_runtime.session_answer LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    t double precision := agent_runtime.moment(clock);
    s agent_runtime.sessions;
BEGIN
    SELECT * INTO s FROM agent_runtime.sessions
     WHERE tenant_id = the_tenant AND user_id = the_user AND session_id = the_id AND expires_at > t;
    IF FOUND THEN
        RETURN NEXT agent_runtime.answered(s, t);
    END IF;
END
$$;

CREATE FUNCTION agent_runtime.session_list(the_tenant text, the_user text, clock double precision)
RETURNS SETOF agent_runtime.session_answer LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    t double precision := agent_runtime.moment(clock);
    s agent_runtime.sessions;
BEGIN
    FOR s IN SELECT * FROM agent_runtime.sessions
              WHERE tenant_id = the_tenant AND user_id = the_user AND expires_at > t LOOP
        RETURN NEXT agent_runtime.answered(s, t);
    END LOOP;
END
$$;

CREATE FUNCTION agent_runtime.session_count(the_tenant text, the_user text, clock double precision)
RETURNS bigint LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    t double precision := agent_runtime.moment(clock);
BEGIN
    RETURN (
        SELECT count(*) FROM agent_runtime.sessions
         WHERE tenant_id = the_tenant AND user_id = the_user AND expires_at > t
    );
END
$$;

CREATE FUNCTION agent_runtime.session_write(
    the_tenant text, the_user text, the_id text, clock double precision, the_agent text, the_data bytea, the_closed boolean,
    expected bigint, ttl double precision, the_operation text, the_holder text, the_fence bigint
) RETURNS agent_runtime.session_answer LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    s agent_runtime.sessions := agent_runtime.session_locked(the_tenant, the_user, the_id);
    t double precision := agent_runtime.moment(clock);
    operations_kept CONSTANT integer := 100;
BEGIN
    IF (s.expires_at > t) IS NOT TRUE THEN
        RETURN agent_runtime.refused('missing');
    END IF;
    PERFORM FROM agent_runtime.session_writes WHERE session = s.id AND operation = the_operation;
    IF FOUND THEN
        RETURN agent_runtime.answered(s, t);
    END IF;
    IF (s.holder, s.fence) IS DISTINCT FROM (the_holder, the_fence) AND the_holder IS NOT NULL THEN
        RETURN agent_runtime.refused('fenced');
    END IF;
    IF s.version <> expected THEN
        RETURN agent_runtime.refused('changed');
    END IF;
    UPDATE agent_runtime.sessions
       SET agent_id = the_agent, data = the_data, closed = the_closed, version = version + 1, updated_at = t,
           expires_at = greatest(t + ttl, until), due = least(due, greatest(t + ttl, until))
     WHERE id = s.id RETURNING * INTO s;
    INSERT INTO agent_runtime.session_writes (session, place, operation)
    VALUES (s.id, s.version % operations_kept, the_operation)
    ON CONFLICT (session, place) DO UPDATE SET operation = excluded.operation;
    RETURN agent_runtime.answered(s, t);
END
$$;

CREATE FUNCTION agent_runtime.session_delete(the_tenant text, the_user text, the_id text, clock double precision)
RETURNS boolean LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    s agent_runtime.sessions := agent_runtime.session_locked(the_tenant, the_user, the_id);
BEGIN
    DELETE FROM agent_runtime.sessions WHERE id = s.id AND expires_at > agent_runtime.moment(clock);
    RETURN FOUND;
END
$$;

CREATE FUNCTION agent_runtime.session_delete_all(
    the_tenant text, the_user text, clock double precision, the_agent text
) RETURNS bigint LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    gone bigint[];
    t double precision;
BEGIN
    -- In one order: two of these, and forks, do not wait for each other in a ring.
    gone := ARRAY(
        SELECT id FROM agent_runtime.sessions
         WHERE tenant_id = the_tenant AND user_id = the_user AND agent_id = coalesce(the_agent, agent_id)
         ORDER BY id FOR UPDATE
    );
    t := agent_runtime.moment(clock);
    WITH deleted AS (
        DELETE FROM agent_runtime.sessions WHERE id = ANY (gone) AND expires_at > t RETURNING id
    ) SELECT array_agg(id) INTO gone FROM deleted;
    RETURN coalesce(cardinality(gone), 0);
END
$$;

-- At most so many as there is `room` for.
CREATE FUNCTION agent_runtime.session_expire(clock double precision, room bigint)
RETURNS TABLE (tenant_id text, user_id text, session_id text, agent_id text) LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    t double precision := agent_runtime.moment(clock);
    found_aside bigint;
BEGIN
    RETURN QUERY DELETE FROM agent_runtime.expired_sessions AS e WHERE e.id = ANY (ARRAY(
        SELECT a.id FROM agent_runtime.expired_sessions AS a ORDER BY a.id LIMIT room FOR UPDATE SKIP LOCKED
    )) RETURNING e.tenant_id, e.user_id, e.session_id, e.agent_id;
    GET DIAGNOSTICS found_aside = ROW_COUNT;
    RETURN QUERY DELETE FROM agent_runtime.sessions AS s WHERE s.id = ANY (ARRAY(
        SELECT d.id FROM agent_runtime.sessions AS d
         WHERE d.due <= t AND d.expires_at <= t LIMIT room - found_aside FOR UPDATE SKIP LOCKED
    )) RETURNING s.tenant_id, s.user_id, s.session_id, s.agent_id;
    UPDATE agent_runtime.sessions AS s SET due = s.expires_at WHERE s.id = ANY (ARRAY(
        SELECT d.id FROM agent_runtime.sessions AS d
         WHERE d.due <= t AND d.expires_at > t LIMIT 1000 FOR UPDATE SKIP LOCKED
    ));
END
$$;
