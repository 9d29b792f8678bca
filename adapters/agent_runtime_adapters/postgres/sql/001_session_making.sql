-- The operations of the session store: each is called by one statement, which is one transaction. A function that changes a
-- session has locked its row first, and asks for the time afterwards. `clock` is the time, or NULL for the server's own.
--
-- `enable_seqscan = off`: a plan made while the tables were small is kept by the connection, and must not be one that reads
-- all of them when they have grown. `search_path`: PostgreSQL prefers a function or operator for exactly these types to its
-- own, and who may make one in a schema of the caller's path would have it called with the caller's rights. Both hold for
-- the functions that are called inside as well.

-- A session as the store gives it, or why it does not. `holder` is who holds the lease now.
CREATE TYPE agent_runtime.session_answer AS (
    refusal text,
    session_id text,
    agent_id text,
    data bytea,
    closed boolean,
    version integer,
    message_count integer,
    created_at double precision,
    updated_at double precision,
    expires_at double precision,
    holder text,
    fence bigint
);

CREATE FUNCTION agent_runtime.moment(clock double precision) RETURNS double precision LANGUAGE sql VOLATILE AS $$
    SELECT coalesce(clock, extract(epoch FROM clock_timestamp())::double precision)
$$;

CREATE FUNCTION agent_runtime.answered(s agent_runtime.sessions, t double precision)
RETURNS agent_runtime.session_answer LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN ROW(
        NULL, s.session_id, s.agent_id, s.data, s.closed, s.version, s.message_count, s.created_at, s.updated_at,
        s.expires_at, CASE WHEN s.until > t THEN s.holder END, s.fence
    )::agent_runtime.session_answer;
END
$$;

CREATE FUNCTION agent_runtime.refused(refusal text) RETURNS agent_runtime.session_answer LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN ROW(
        refusal, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
    )::agent_runtime.session_answer;
END
$$;

-- The session, locked, also one whose time is up; all NULL where there is none.
CREATE FUNCTION agent_runtime.session_locked(the_tenant text, the_user text, the_id text)
RETURNS agent_runtime.sessions LANGUAGE plpgsql AS $$
DECLARE
    s agent_runtime.sessions;
BEGIN
    SELECT * INTO s FROM agent_runtime.sessions
     WHERE tenant_id = the_tenant AND user_id = the_user AND session_id = the_id FOR UPDATE;
    RETURN s;
END
$$;

-- One at a time makes sessions for an owner: what is locked here is nobody's row.
CREATE FUNCTION agent_runtime.session_owner_locked(the_tenant text, the_user text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(
        'agent_runtime.sessions'::regclass::oid::integer, hashtext(the_tenant || chr(1) || the_user)
    );
END
$$;

-- Why there is no room for one session more. With `max_sessions` one at a time looks, and counts no further than that.
CREATE FUNCTION agent_runtime.session_no_room(
    the_tenant text, the_user text, t double precision, max_sessions bigint, max_sessions_per_user bigint
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    living bigint;
BEGIN
    IF max_sessions IS NOT NULL THEN
        PERFORM pg_advisory_xact_lock('agent_runtime.sessions'::regclass::oid::bigint);
        SELECT count(*) INTO living FROM (SELECT FROM agent_runtime.sessions WHERE due > t LIMIT max_sessions) AS found;
        IF living < max_sessions THEN
            living := living + (SELECT count(*) FROM agent_runtime.sessions WHERE due <= t AND expires_at > t);
        END IF;
        IF living >= max_sessions THEN
            RETURN 'full';
        END IF;
    END IF;
    IF max_sessions_per_user IS NOT NULL AND max_sessions_per_user <= (
        SELECT count(*) FROM agent_runtime.sessions
         WHERE tenant_id = the_tenant AND user_id = the_user AND expires_at > t
    ) THEN
        RETURN 'owner_full';
    END IF;
    RETURN NULL;
END
$$;

-- Make way where an expired session is, of which `session_expire` still has to tell.
CREATE FUNCTION agent_runtime.session_set_aside(s agent_runtime.sessions) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO agent_runtime.expired_sessions (tenant_id, user_id, session_id, agent_id)
    VALUES (s.tenant_id, s.user_id, s.session_id, s.agent_id);
    DELETE FROM agent_runtime.sessions WHERE id = s.id;
END
$$;

-- The data of the checkpoints are one behind the other. Their counts and lengths are numbers in text: the driver knows no
-- other arrays without asking for their type.
CREATE FUNCTION agent_runtime.session_create(
    the_tenant text, the_user text, the_id text, clock double precision, the_agent text, the_data bytea, the_closed boolean,
    the_operation text, ttl double precision, max_sessions bigint, max_sessions_per_user bigint,
    batch bytea, batch_size integer, checkpoint_ids text[], checkpoint_counts text[], checkpoint_lengths text[],
    checkpoint_data bytea
) RETURNS agent_runtime.session_answer LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    s agent_runtime.sessions;
    t double precision;
    refusal text;
BEGIN
    PERFORM agent_runtime.session_owner_locked(the_tenant, the_user);
    s := agent_runtime.session_locked(the_tenant, the_user, the_id);
    t := agent_runtime.moment(clock);
    IF s.expires_at > t THEN
        IF s.operation = the_operation THEN
            RETURN agent_runtime.answered(s, t);
        END IF;
        RETURN agent_runtime.refused('exists');
    END IF;
    refusal := agent_runtime.session_no_room(the_tenant, the_user, t, max_sessions, max_sessions_per_user);
    IF refusal IS NOT NULL THEN
        RETURN agent_runtime.refused(refusal);
    END IF;
    IF s.id IS NOT NULL THEN
        PERFORM agent_runtime.session_set_aside(s);
    END IF;
    INSERT INTO agent_runtime.sessions (
        tenant_id, user_id, session_id, agent_id, data, closed, operation, message_count, checkpoint_sequence,
        created_at, updated_at, expires_at, due
    ) VALUES (
        the_tenant, the_user, the_id, the_agent, the_data, the_closed, the_operation, batch_size,
        cardinality(checkpoint_ids), t, t, t + ttl, t + ttl
    ) RETURNING * INTO s;
    IF batch_size > 0 THEN
        INSERT INTO agent_runtime.messages (session, first, size, data) VALUES (s.id, 0, batch_size, batch);
    END IF;
    INSERT INTO agent_runtime.checkpoints (session, sequence, checkpoint_id, message_count, created_at, data)
    SELECT s.id, place, name, count::integer, t,
           substring(checkpoint_data FROM (sum(length::integer) OVER (ORDER BY place))::integer - length::integer + 1
                                      FOR length::integer)
      FROM unnest(checkpoint_ids, checkpoint_counts, checkpoint_lengths)
           WITH ORDINALITY AS given (name, count, length, place);
    RETURN agent_runtime.answered(s, t);
END
$$;

CREATE FUNCTION agent_runtime.session_fork(
    the_tenant text, the_user text, the_id text, clock double precision, the_checkpoint text, new_id text,
    the_operation text, ttl double precision, max_sessions bigint, max_sessions_per_user bigint
) RETURNS agent_runtime.session_answer LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    there agent_runtime.sessions;
    source agent_runtime.sessions;
    c agent_runtime.checkpoints;
    s agent_runtime.sessions;
    t double precision;
    refusal text;
BEGIN
    PERFORM agent_runtime.session_owner_locked(the_tenant, the_user);
    -- Both in the order of `session_delete_all`.
    PERFORM FROM agent_runtime.sessions
      WHERE tenant_id = the_tenant AND user_id = the_user AND session_id IN (the_id, new_id) ORDER BY id FOR UPDATE;
    there := agent_runtime.session_locked(the_tenant, the_user, new_id);
    source := agent_runtime.session_locked(the_tenant, the_user, the_id);
    t := agent_runtime.moment(clock);
    IF there.expires_at > t AND there.operation = the_operation THEN
        RETURN agent_runtime.answered(there, t);
    END IF;
    SELECT * INTO c FROM agent_runtime.checkpoints
     WHERE session = source.id AND checkpoint_id = the_checkpoint AND source.expires_at > t;
    IF NOT FOUND THEN
        RETURN agent_runtime.refused('missing');
    END IF;
    IF there.expires_at > t THEN
        RETURN agent_runtime.refused('exists');
    END IF;
    refusal := agent_runtime.session_no_room(the_tenant, the_user, t, max_sessions, max_sessions_per_user);
    IF refusal IS NOT NULL THEN
        RETURN agent_runtime.refused(refusal);
    END IF;
    IF there.id IS NOT NULL THEN
        PERFORM agent_runtime.session_set_aside(there);
    END IF;
    INSERT INTO agent_runtime.sessions (
        tenant_id, user_id, session_id, agent_id, data, closed, operation, message_count, checkpoint_sequence,
        created_at, updated_at, expires_at, due
    ) VALUES (
        the_tenant, the_user, new_id, source.agent_id, source.data, false, the_operation,
        least(c.message_count, source.message_count), 1, t, t, t + ttl, t + ttl
    ) RETURNING * INTO s;
    INSERT INTO agent_runtime.messages (session, first, size, data)
    SELECT s.id, m.first, least(m.size, s.message_count - m.first), m.data
      FROM agent_runtime.messages AS m WHERE m.session = source.id AND m.first < s.message_count;
    INSERT INTO agent_runtime.checkpoints (session, sequence, checkpoint_id, message_count, created_at, data)
    VALUES (s.id, 1, c.checkpoint_id, c.message_count, t, c.data);
    RETURN agent_runtime.answered(s, t);
END
$$;
