-- Sessions and what belongs to them. Times are Unix seconds. Names are compared byte by byte (COLLATE "C"), and an index
-- of them does not depend on the version of the system's collations.

-- A session; its lease is of `holder`, and holds until it is given back or taken over, also when `until` is over.
-- `tenant_id` is '' where there is no tenant. `operation` made it. `due` is when `session_expire` looks at it, at the latest
-- `expires_at`: that changes with each write, and the index of `due` only when somebody has looked.
CREATE TABLE agent_runtime.sessions (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id text COLLATE "C" NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    session_id text COLLATE "C" NOT NULL,
    agent_id text COLLATE "C" NOT NULL,
    closed boolean NOT NULL,
    operation text COLLATE "C" NOT NULL,
    version integer NOT NULL DEFAULT 1,
    message_count integer NOT NULL DEFAULT 0,
    checkpoint_sequence integer NOT NULL DEFAULT 0,
    run_sequence integer NOT NULL DEFAULT 0,
    created_at double precision NOT NULL,
    updated_at double precision NOT NULL,
    expires_at double precision NOT NULL,
    due double precision NOT NULL,
    holder text COLLATE "C",
    fence bigint NOT NULL DEFAULT 0,
    until double precision NOT NULL DEFAULT '-infinity',
    data bytea NOT NULL,
    UNIQUE (tenant_id, user_id, session_id)
) WITH (fillfactor = 70);

CREATE INDEX sessions_due ON agent_runtime.sessions (due);

-- The last fencing token, of all sessions: one that is made again gets no number that was there.
CREATE SEQUENCE agent_runtime.fences;

-- One row for each append: `first` is the place of its first message, `size` how many of the messages in `data` belong to the
-- conversation, `operation` who added them, known again.
CREATE TABLE agent_runtime.messages (
    session bigint NOT NULL,
    first integer NOT NULL,
    size integer NOT NULL,
    operation text COLLATE "C",
    data bytea NOT NULL,
    PRIMARY KEY (session, first)
);

CREATE UNIQUE INDEX messages_operation ON agent_runtime.messages (session, operation) WHERE operation IS NOT NULL;

-- The last operations of `session_write`, each in the place of the one that many versions before.
CREATE TABLE agent_runtime.session_writes (
    session bigint NOT NULL,
    place integer NOT NULL,
    operation text COLLATE "C" NOT NULL,
    PRIMARY KEY (session, place)
);

CREATE TABLE agent_runtime.checkpoints (
    session bigint NOT NULL,
    sequence integer NOT NULL,
    checkpoint_id text COLLATE "C" NOT NULL,
    message_count integer NOT NULL,
    created_at double precision NOT NULL,
    data bytea NOT NULL,
    PRIMARY KEY (session, sequence),
    UNIQUE (session, checkpoint_id)
);

CREATE TABLE agent_runtime.runs (
    session bigint NOT NULL,
    sequence integer NOT NULL,
    run_id text COLLATE "C" NOT NULL,
    entry_count integer NOT NULL,
    message_count integer NOT NULL,
    created_at double precision NOT NULL,
    updated_at double precision NOT NULL,
    PRIMARY KEY (session, sequence),
    UNIQUE (session, run_id)
);

-- `run` is the run's sequence.
CREATE TABLE agent_runtime.run_entries (
    session bigint NOT NULL,
    run integer NOT NULL,
    number integer NOT NULL,
    data bytea NOT NULL,
    PRIMARY KEY (session, run, number)
);

-- Expired sessions of which nobody has been told, and whose id has been taken again.
CREATE TABLE agent_runtime.expired_sessions (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id text COLLATE "C" NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    session_id text COLLATE "C" NOT NULL,
    agent_id text COLLATE "C" NOT NULL
);

-- What belongs to a session goes with it, however it goes. There are no foreign keys: every function that adds to a session
-- has its row locked, and a key would look it up again with each row.
CREATE FUNCTION agent_runtime.session_deleted() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
BEGIN
    DELETE FROM agent_runtime.messages WHERE session = old.id;
    DELETE FROM agent_runtime.session_writes WHERE session = old.id;
    DELETE FROM agent_runtime.checkpoints WHERE session = old.id;
    DELETE FROM agent_runtime.run_entries WHERE session = old.id;
    DELETE FROM agent_runtime.runs WHERE session = old.id;
    RETURN NULL;
END
$$;

CREATE TRIGGER session_deleted AFTER DELETE ON agent_runtime.sessions
    FOR EACH ROW EXECUTE FUNCTION agent_runtime.session_deleted();
