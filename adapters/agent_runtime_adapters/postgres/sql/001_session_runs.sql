-- The lease of a session, and its unfinished runs with their entries.

CREATE FUNCTION agent_runtime.session_run_removed(the_session bigint, the_run text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    gone integer;
BEGIN
    DELETE FROM agent_runtime.runs WHERE session = the_session AND run_id = the_run RETURNING sequence INTO gone;
    IF gone IS NULL THEN
        RETURN false;
    END IF;
    DELETE FROM agent_runtime.run_entries WHERE session = the_session AND run = gone;
    RETURN true;
END
$$;

-- Begin a run with its first entry, in the place of the oldest where there are too many; `s` counts it afterwards.
CREATE FUNCTION agent_runtime.session_run_begun(
    s agent_runtime.sessions, the_run text, entry bytea, t double precision
) RETURNS agent_runtime.sessions LANGUAGE plpgsql AS $$
DECLARE
    runs_kept CONSTANT integer := 32;
    oldest text;
BEGIN
    FOR oldest IN
        SELECT run_id FROM agent_runtime.runs WHERE session = s.id ORDER BY sequence DESC OFFSET runs_kept - 1
    LOOP
        PERFORM agent_runtime.session_run_removed(s.id, oldest);
    END LOOP;
    s.run_sequence := s.run_sequence + 1;
    INSERT INTO agent_runtime.runs (session, sequence, run_id, entry_count, message_count, created_at, updated_at)
    VALUES (s.id, s.run_sequence, the_run, 1, s.message_count, t, t);
    INSERT INTO agent_runtime.run_entries (session, run, number, data) VALUES (s.id, s.run_sequence, 1, entry);
    RETURN s;
END
$$;

CREATE FUNCTION agent_runtime.session_record(
    the_tenant text, the_user text, the_id text, clock double precision, the_run text, the_number bigint, entry bytea,
    ttl double precision, the_holder text, the_fence bigint
) RETURNS text LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    s agent_runtime.sessions := agent_runtime.session_locked(the_tenant, the_user, the_id);
    t double precision := agent_runtime.moment(clock);
    r agent_runtime.runs;
BEGIN
    IF (s.expires_at > t) IS NOT TRUE THEN
        RETURN 'missing';
    END IF;
    SELECT * INTO r FROM agent_runtime.runs WHERE session = s.id AND run_id = the_run;
    PERFORM FROM agent_runtime.run_entries
      WHERE session = s.id AND run = r.sequence AND number = the_number AND data = entry;
    IF FOUND THEN
        RETURN NULL;
    END IF;
    IF (s.holder, s.fence) IS DISTINCT FROM (the_holder, the_fence) THEN
        RETURN 'fenced';
    ELSIF r.sequence IS NULL AND the_number > 1 THEN
        RETURN 'missing';
    ELSIF the_number = 1 AND s.closed THEN
        RETURN 'closed';
    ELSIF the_number <> coalesce(r.entry_count, 0) + 1 THEN
        RETURN 'changed';
    END IF;
    IF the_number = 1 THEN
        s := agent_runtime.session_run_begun(s, the_run, entry, t);
    ELSE
        INSERT INTO agent_runtime.run_entries (session, run, number, data) VALUES (s.id, r.sequence, the_number, entry);
        UPDATE agent_runtime.runs SET entry_count = the_number, updated_at = t
         WHERE session = s.id AND sequence = r.sequence;
    END IF;
    UPDATE agent_runtime.sessions
       SET run_sequence = s.run_sequence, updated_at = t,
           expires_at = greatest(t + ttl, until), due = least(due, greatest(t + ttl, until))
     WHERE id = s.id;
    RETURN NULL;
END
$$;

CREATE FUNCTION agent_runtime.session_runs(the_tenant text, the_user text, the_id text, clock double precision)
RETURNS SETOF agent_runtime.runs LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    t double precision := agent_runtime.moment(clock);
    session_key bigint;
BEGIN
    SELECT id INTO session_key FROM agent_runtime.sessions
     WHERE tenant_id = the_tenant AND user_id = the_user AND session_id = the_id AND expires_at > t;
    RETURN QUERY SELECT * FROM agent_runtime.runs WHERE session = session_key ORDER BY sequence DESC;
END
$$;

CREATE FUNCTION agent_runtime.session_entries(
    the_tenant text, the_user text, the_id text, clock double precision, the_run text
) RETURNS SETOF bytea LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    t double precision := agent_runtime.moment(clock);
    session_key bigint;
    the_sequence integer;
BEGIN
    SELECT id INTO session_key FROM agent_runtime.sessions
     WHERE tenant_id = the_tenant AND user_id = the_user AND session_id = the_id AND expires_at > t;
    SELECT sequence INTO the_sequence FROM agent_runtime.runs WHERE session = session_key AND run_id = the_run;
    RETURN QUERY SELECT data FROM agent_runtime.run_entries
                  WHERE session = session_key AND run = the_sequence ORDER BY number;
END
$$;

CREATE FUNCTION agent_runtime.session_finish(
    the_tenant text, the_user text, the_id text, clock double precision, the_run text, batch bytea, batch_size integer,
    ttl double precision, the_holder text, the_fence bigint, OUT refusal text, OUT message_count integer
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
      FROM agent_runtime.messages AS m WHERE m.session = s.id AND m.operation = the_holder;
    IF (s.holder, s.fence) IS DISTINCT FROM (the_holder, the_fence) THEN
        IF message_count IS NULL THEN
            PERFORM FROM agent_runtime.runs WHERE session = s.id AND run_id = the_run;
            IF FOUND OR batch IS NOT NULL THEN
                refusal := 'fenced';
            ELSE
                message_count := s.message_count;
            END IF;
        END IF;
        RETURN;
    END IF;
    IF message_count IS NULL AND batch_size > 0 THEN
        IF s.closed THEN
            refusal := 'closed';
            RETURN;
        END IF;
        INSERT INTO agent_runtime.messages (session, first, size, operation, data)
        VALUES (s.id, s.message_count, batch_size, the_holder, batch);
        s.message_count := s.message_count + batch_size;
    END IF;
    message_count := coalesce(message_count, s.message_count);
    PERFORM agent_runtime.session_run_removed(s.id, the_run);
    UPDATE agent_runtime.sessions AS own
       SET message_count = s.message_count, holder = NULL, until = '-infinity', updated_at = t,
           expires_at = t + ttl, due = least(s.due, t + ttl)
     WHERE own.id = s.id;
END
$$;

CREATE FUNCTION agent_runtime.session_discard_run(
    the_tenant text, the_user text, the_id text, clock double precision, the_run text,
    OUT refusal text, OUT removed boolean
) LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    s agent_runtime.sessions := agent_runtime.session_locked(the_tenant, the_user, the_id);
    t double precision := agent_runtime.moment(clock);
BEGIN
    removed := false;
    IF (s.expires_at > t) IS NOT TRUE THEN
        RETURN;
    END IF;
    IF s.until > t THEN
        refusal := 'held';
        RETURN;
    END IF;
    removed := agent_runtime.session_run_removed(s.id, the_run);
END
$$;

CREATE FUNCTION agent_runtime.session_acquire(
    the_tenant text, the_user text, the_id text, clock double precision, the_holder text, seconds double precision,
    ttl double precision, entry bytea
) RETURNS agent_runtime.session_answer LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    s agent_runtime.sessions := agent_runtime.session_locked(the_tenant, the_user, the_id);
    t double precision := agent_runtime.moment(clock);
    is_again boolean := s.holder IS NOT DISTINCT FROM the_holder;
    begins boolean := entry IS NOT NULL;
    there integer;
BEGIN
    IF (s.expires_at > t) IS NOT TRUE THEN
        RETURN agent_runtime.refused('missing');
    END IF;
    IF begins THEN
        SELECT sequence INTO there FROM agent_runtime.runs WHERE session = s.id AND run_id = the_holder;
        PERFORM FROM agent_runtime.run_entries WHERE session = s.id AND run = there AND number = 1 AND data = entry;
        begins := NOT FOUND;
    END IF;
    IF s.closed AND (begins OR NOT is_again) THEN
        RETURN agent_runtime.refused('closed');
    ELSIF s.until > t AND NOT is_again THEN
        RETURN agent_runtime.refused('held');
    ELSIF begins AND there IS NOT NULL THEN
        RETURN agent_runtime.refused('changed');
    END IF;
    IF begins THEN
        s := agent_runtime.session_run_begun(s, the_holder, entry, t);
    END IF;
    s.holder := the_holder;
    s.until := t + seconds;
    s.expires_at := greatest(s.expires_at, s.until);
    IF NOT is_again THEN
        s.fence := nextval('agent_runtime.fences');
    END IF;
    IF begins OR NOT is_again THEN
        s.updated_at := t;
        s.expires_at := greatest(t + ttl, s.until);
    END IF;
    UPDATE agent_runtime.sessions
       SET holder = s.holder, fence = s.fence, until = s.until, run_sequence = s.run_sequence,
           updated_at = s.updated_at, expires_at = s.expires_at, due = least(due, s.expires_at)
     WHERE id = s.id;
    RETURN agent_runtime.answered(s, t);
END
$$;

CREATE FUNCTION agent_runtime.session_renew(
    the_tenant text, the_user text, the_id text, clock double precision, the_holder text, the_fence bigint,
    seconds double precision
) RETURNS agent_runtime.session_answer LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    s agent_runtime.sessions := agent_runtime.session_locked(the_tenant, the_user, the_id);
    t double precision := agent_runtime.moment(clock);
BEGIN
    IF (s.expires_at > t) IS NOT TRUE THEN
        RETURN agent_runtime.refused('missing');
    END IF;
    IF (s.holder, s.fence) IS DISTINCT FROM (the_holder, the_fence) THEN
        RETURN agent_runtime.refused('fenced');
    END IF;
    UPDATE agent_runtime.sessions SET until = t + seconds, expires_at = greatest(expires_at, t + seconds)
     WHERE id = s.id RETURNING * INTO s;
    RETURN agent_runtime.answered(s, t);
END
$$;

CREATE FUNCTION agent_runtime.session_release(
    the_tenant text, the_user text, the_id text, clock double precision, the_holder text, the_fence bigint
) RETURNS boolean LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    s agent_runtime.sessions := agent_runtime.session_locked(the_tenant, the_user, the_id);
    t double precision := agent_runtime.moment(clock);
BEGIN
    IF (s.expires_at > t AND s.holder = the_holder AND s.fence = the_fence) IS NOT TRUE THEN
        RETURN false;
    END IF;
    UPDATE agent_runtime.sessions SET holder = NULL, until = '-infinity' WHERE id = s.id;
    RETURN true;
END
$$;
