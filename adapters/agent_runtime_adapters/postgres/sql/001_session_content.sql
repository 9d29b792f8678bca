-- The messages and the checkpoints of a session.

CREATE FUNCTION agent_runtime.session_append(
    the_tenant text, the_user text, the_id text, clock double precision, batch bytea, batch_size integer,
    expected bigint, ttl double precision, the_operation text, the_holder text, the_fence bigint,
    OUT refusal text, OUT message_count integer
) LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    s agent_runtime.sessions := agent_runtime.session_locked(the_tenant, the_user, the_id);
    t double precision := agent_runtime.moment(clock);
BEGIN
    IF (s.expires_at > t) IS NOT TRUE THEN
        refusal := 'missing';
        RETURN;
    END IF;
    SELECT m.first + m.size INTO message_count
      FROM agent_runtime.messages AS m WHERE m.session = s.id AND m.operation = the_operation;
    IF FOUND THEN
        RETURN;
    END IF;
    refusal := CASE
        WHEN s.closed THEN 'closed'
        WHEN the_holder IS NULL AND s.until > t THEN 'held'
        WHEN the_holder IS NOT NULL AND (s.holder, s.fence) IS DISTINCT FROM (the_holder, the_fence) THEN 'fenced'
        WHEN s.message_count <> expected THEN 'changed'
    END;
    IF refusal IS NOT NULL THEN
        RETURN;
    END IF;
    INSERT INTO agent_runtime.messages (session, first, size, operation, data)
    VALUES (s.id, s.message_count, batch_size, the_operation, batch);
    message_count := s.message_count + batch_size;
    UPDATE agent_runtime.sessions AS own
       SET message_count = s.message_count + batch_size, updated_at = t,
           expires_at = greatest(t + ttl, s.until), due = least(s.due, greatest(t + ttl, s.until))
     WHERE own.id = s.id;
END
$$;

-- A row for each batch that has to be read, with how long the conversation is; one of NULLs where there is no message, and
-- none without the session. The index has the batches in order: sorted, all of them would be copied once more.
CREATE FUNCTION agent_runtime.session_messages(
    the_tenant text, the_user text, the_id text, clock double precision, last bigint
) RETURNS TABLE (message_count integer, first integer, size integer, data bytea) LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_sort = off AS $$
#variable_conflict use_column
DECLARE
    t double precision := agent_runtime.moment(clock);
    session_key bigint;
    total integer;
    start integer := 0;
BEGIN
    SELECT s.id, s.message_count INTO session_key, total FROM agent_runtime.sessions AS s
     WHERE s.tenant_id = the_tenant AND s.user_id = the_user AND s.session_id = the_id AND s.expires_at > t;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF last < total THEN
        SELECT m.first INTO start FROM agent_runtime.messages AS m
         WHERE m.session = session_key AND m.first <= total - last ORDER BY m.first DESC LIMIT 1;
    END IF;
    RETURN QUERY SELECT total, m.first, m.size, m.data FROM agent_runtime.messages AS m
                  WHERE m.session = session_key AND m.first >= start ORDER BY m.first;
    IF NOT FOUND THEN
        RETURN QUERY SELECT total, NULL::integer, NULL::integer, NULL::bytea;
    END IF;
END
$$;

CREATE FUNCTION agent_runtime.session_put_checkpoint(
    the_tenant text, the_user text, the_id text, clock double precision, the_checkpoint text, the_data bytea,
    ttl double precision, the_holder text, the_fence bigint,
    OUT refusal text, OUT sequence integer, OUT message_count integer, OUT created_at double precision
) LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    s agent_runtime.sessions := agent_runtime.session_locked(the_tenant, the_user, the_id);
    t double precision := agent_runtime.moment(clock);
    same boolean;
BEGIN
    IF (s.expires_at > t) IS NOT TRUE THEN
        refusal := 'missing';
        RETURN;
    END IF;
    SELECT c.data = the_data, c.sequence, c.message_count, c.created_at INTO same, sequence, message_count, created_at
      FROM agent_runtime.checkpoints AS c WHERE c.session = s.id AND c.checkpoint_id = the_checkpoint;
    IF same THEN
        RETURN;
    END IF;
    refusal := CASE
        WHEN s.closed THEN 'closed'
        WHEN the_holder IS NOT NULL AND (s.holder, s.fence) IS DISTINCT FROM (the_holder, the_fence) THEN 'fenced'
        WHEN NOT same THEN 'exists'
    END;
    IF refusal IS NOT NULL THEN
        RETURN;
    END IF;
    sequence := s.checkpoint_sequence + 1;
    message_count := s.message_count;
    created_at := t;
    INSERT INTO agent_runtime.checkpoints (session, sequence, checkpoint_id, message_count, created_at, data)
    VALUES (s.id, s.checkpoint_sequence + 1, the_checkpoint, s.message_count, t, the_data);
    UPDATE agent_runtime.sessions AS own
       SET checkpoint_sequence = s.checkpoint_sequence + 1, updated_at = t,
           expires_at = greatest(t + ttl, s.until), due = least(s.due, greatest(t + ttl, s.until))
     WHERE own.id = s.id;
END
$$;

CREATE FUNCTION agent_runtime.session_checkpoints(
    the_tenant text, the_user text, the_id text, clock double precision, the_checkpoint text, last bigint
) RETURNS SETOF agent_runtime.checkpoints LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    t double precision := agent_runtime.moment(clock);
    session_key bigint;
BEGIN
    SELECT id INTO session_key FROM agent_runtime.sessions
     WHERE tenant_id = the_tenant AND user_id = the_user AND session_id = the_id AND expires_at > t;
    IF the_checkpoint IS NULL THEN
        RETURN QUERY SELECT * FROM agent_runtime.checkpoints
                      WHERE session = session_key ORDER BY sequence DESC LIMIT last;
    ELSE
        RETURN QUERY SELECT * FROM agent_runtime.checkpoints
                      WHERE session = session_key AND checkpoint_id = the_checkpoint;
    END IF;
END
$$;

CREATE FUNCTION agent_runtime.session_delete_checkpoints(
    the_tenant text, the_user text, the_id text, clock double precision, the_checkpoint text
) RETURNS bigint LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    s agent_runtime.sessions := agent_runtime.session_locked(the_tenant, the_user, the_id);
    t double precision := agent_runtime.moment(clock);
    gone bigint;
BEGIN
    DELETE FROM agent_runtime.checkpoints
     WHERE session = s.id AND s.expires_at > t AND checkpoint_id = coalesce(the_checkpoint, checkpoint_id);
    GET DIAGNOSTICS gone = ROW_COUNT;
    RETURN gone;
END
$$;
