-- Values that live for a time. Each function that writes has the row of its key first, and then takes away what has expired
-- and nobody else has: so no two of them wait for each other in a ring.

-- `key` is the key's SHA-256: an index takes no more than 2,700 bytes. `operation` wrote the value.
CREATE TABLE agent_runtime.key_values (
    tenant_id text COLLATE "C" NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    key bytea NOT NULL,
    version bigint NOT NULL,
    operation bytea,
    expires_at double precision NOT NULL,
    value bytea NOT NULL,
    PRIMARY KEY (tenant_id, user_id, key)
);

CREATE INDEX key_values_expires_at ON agent_runtime.key_values (expires_at);

-- One count for all keys: no key has a version twice.
CREATE SEQUENCE agent_runtime.key_value_versions;

CREATE FUNCTION agent_runtime.key_value_get(the_tenant text, the_user text, the_key bytea, clock double precision)
RETURNS TABLE (found_value bytea, found_version bigint, found_expires_at double precision) LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    t double precision := agent_runtime.moment(clock);
BEGIN
    RETURN QUERY SELECT value, version, expires_at FROM agent_runtime.key_values
     WHERE tenant_id = the_tenant AND user_id = the_user AND key = the_key AND expires_at > t;
END
$$;

CREATE FUNCTION agent_runtime.key_values_free(t double precision) RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_bitmapscan = off AS $$
BEGIN
    DELETE FROM agent_runtime.key_values WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM agent_runtime.key_values WHERE expires_at <= t LIMIT 100 FOR UPDATE SKIP LOCKED
    ));
END
$$;

CREATE FUNCTION agent_runtime.key_value_set(
    the_tenant text, the_user text, the_key bytea, clock double precision, the_value bytea, ttl double precision
) RETURNS bigint LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    t double precision := agent_runtime.moment(clock);
    answer bigint;
BEGIN
    INSERT INTO agent_runtime.key_values (tenant_id, user_id, key, version, expires_at, value)
    VALUES (the_tenant, the_user, the_key, nextval('agent_runtime.key_value_versions'), t + ttl, the_value)
    ON CONFLICT (tenant_id, user_id, key) DO UPDATE
       SET version = excluded.version, operation = NULL, expires_at = excluded.expires_at, value = excluded.value
    RETURNING version INTO answer;
    PERFORM agent_runtime.key_values_free(t);
    RETURN answer;
END
$$;

-- What is refused is only read: nothing of it goes to the disk.
CREATE FUNCTION agent_runtime.key_value_add(
    the_tenant text, the_user text, the_key bytea, clock double precision, the_value bytea, ttl double precision,
    the_operation bytea, OUT answer bigint, OUT refusal text
) LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    t double precision;
    known bytea;
BEGIN
    LOOP
        t := agent_runtime.moment(clock);
        SELECT version, operation INTO answer, known FROM agent_runtime.key_values
         WHERE tenant_id = the_tenant AND user_id = the_user AND key = the_key AND expires_at > t;
        IF FOUND THEN
            IF known IS DISTINCT FROM the_operation THEN
                refusal := 'exists';
            END IF;
            RETURN;
        END IF;
        INSERT INTO agent_runtime.key_values AS there (tenant_id, user_id, key, version, operation, expires_at, value)
        VALUES (
            the_tenant, the_user, the_key, nextval('agent_runtime.key_value_versions'), the_operation, t + ttl, the_value
        )
        ON CONFLICT (tenant_id, user_id, key) DO UPDATE
           SET version = excluded.version, operation = excluded.operation, expires_at = excluded.expires_at,
               value = excluded.value
         WHERE there.expires_at <= t
        RETURNING version INTO answer;
        IF FOUND THEN
            PERFORM agent_runtime.key_values_free(t);
            RETURN;
        END IF;
    END LOOP; -- somebody has added meanwhile
END
$$;

CREATE FUNCTION agent_runtime.key_value_replace(
    the_tenant text, the_user text, the_key bytea, clock double precision, the_value bytea, ttl double precision,
    the_operation bytea, expected bigint, OUT answer bigint, OUT refusal text
) LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    t double precision := agent_runtime.moment(clock);
    known bytea;
BEGIN
    UPDATE agent_runtime.key_values
       SET version = nextval('agent_runtime.key_value_versions'), operation = the_operation, expires_at = t + ttl,
           value = the_value
     WHERE tenant_id = the_tenant AND user_id = the_user AND key = the_key AND expires_at > t AND version = expected
       AND operation IS DISTINCT FROM the_operation
    RETURNING version INTO answer;
    IF FOUND THEN
        PERFORM agent_runtime.key_values_free(t);
        RETURN;
    END IF;
    SELECT version, operation INTO answer, known FROM agent_runtime.key_values
     WHERE tenant_id = the_tenant AND user_id = the_user AND key = the_key AND expires_at > t;
    IF NOT FOUND THEN
        refusal := 'missing';
    ELSIF known IS DISTINCT FROM the_operation THEN
        refusal := 'changed';
    END IF;
END
$$;

CREATE FUNCTION agent_runtime.key_value_delete(
    the_tenant text, the_user text, the_key bytea, clock double precision, expected bigint
) RETURNS boolean LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    t double precision := agent_runtime.moment(clock);
BEGIN
    DELETE FROM agent_runtime.key_values
     WHERE tenant_id = the_tenant AND user_id = the_user AND key = the_key AND expires_at > t
       AND version = coalesce(expected, version);
    RETURN FOUND;
END
$$;

-- What had expired goes with it, and is not counted.
CREATE FUNCTION agent_runtime.key_value_delete_all(the_tenant text, the_user text, clock double precision)
RETURNS bigint LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    t double precision := agent_runtime.moment(clock);
    answer bigint;
BEGIN
    -- In one order: two of these do not wait for each other in a ring.
    PERFORM FROM agent_runtime.key_values WHERE tenant_id = the_tenant AND user_id = the_user ORDER BY key FOR UPDATE;
    WITH gone AS (
        DELETE FROM agent_runtime.key_values WHERE tenant_id = the_tenant AND user_id = the_user RETURNING expires_at
    ) SELECT count(*) INTO answer FROM gone WHERE expires_at > t;
    RETURN answer;
END
$$;
