-- Purpose: give a role what it needs, and no more:
--            producer  sends, and commits what it reserved;
--            worker    polls and reports;
--            observer  reads the views, mq_status and mq_explain, payloads included;
--            operator  everything.
--          An update of the extension gives roles what is new for them.
-- Returns: nothing.
-- Locks:   those of GRANT.
-- Errors:  22004 an argument is NULL; 22023 what is none of the four; 42704 no such role; 42501 the
--          caller does not own the extension.
-- Callers: the owner of the extension (it runs with the caller's own rights).
CREATE FUNCTION mq_grant(role name, what text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    -- Functions by name, all signatures of each.
    sends   CONSTANT text[] := ARRAY['mq_insert', 'mq_enqueue', 'mq_enqueue_many', 'mq_enqueue_trigger', 'mq_commit'];
    works   CONSTANT text[] := ARRAY['mq_poll', 'mq_keep_alive', 'mq_checkpoint', 'mq_complete', 'mq_fail',
                                     'mq_release', 'mq_delete'];
    watches CONSTANT text[] := ARRAY['mq_status', 'mq_explain'];
    manages CONSTANT text[] := ARRAY['mq_cancel', 'mq_retry', 'mq_clear', 'mq_clear_all', 'mq_configure'];
    anyone  CONSTANT text[] := ARRAY['mq_version', 'mq_notify_channel'];
    views   CONSTANT text[] := ARRAY['mq_jobs', 'mq_running_jobs', 'mq_dead_jobs', 'mq_workers'];
    home    CONSTANT regnamespace := (SELECT pronamespace::regnamespace FROM pg_proc WHERE oid = 'mq_version()'::regprocedure);
    granted text[];
    callee  regprocedure;
    one     text;
BEGIN
    IF role IS NULL THEN
        PERFORM mq_refuse('22004', 'role', NULL, 'it must name a role');
    END IF;
    granted := anyone || CASE what
        WHEN 'producer' THEN sends
        WHEN 'worker' THEN works
        WHEN 'observer' THEN watches
        WHEN 'operator' THEN sends || works || watches || manages
    END;
    IF granted IS NULL OR what IS NULL OR what NOT IN ('producer', 'worker', 'observer', 'operator') THEN
        PERFORM mq_refuse(CASE WHEN what IS NULL THEN '22004' ELSE '22023' END, 'what', quote_literal(what),
            'it must be ''producer'', ''worker'', ''observer'' or ''operator''');
    END IF;
    IF NOT has_schema_privilege(role, home, 'USAGE') THEN
        EXECUTE format('GRANT USAGE ON SCHEMA %s TO %I', home, role);
    END IF;
    FOR callee IN
        SELECT function.oid::regprocedure FROM pg_proc AS function
        WHERE function.pronamespace = home AND function.proname = ANY (granted)
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', callee, role);
    END LOOP;
    IF what IN ('producer', 'operator') THEN
        EXECUTE format('GRANT USAGE ON TYPE mq_new_t TO %I', role);
    END IF;
    IF what IN ('observer', 'operator') THEN
        FOREACH one IN ARRAY views LOOP
            EXECUTE format('GRANT SELECT ON %I TO %I', one, role);
        END LOOP;
    END IF;
    IF what = 'operator' THEN
        EXECUTE format('GRANT SELECT, DELETE ON mq_msgs TO %I', role);
    ELSE
        -- Whether a job exists: the crate's clients ask the table.
        EXECUTE format('GRANT SELECT (id) ON mq_msgs TO %I', role);
    END IF;
END
$$;
COMMENT ON FUNCTION mq_grant IS 'Gives a role what a producer, worker, observer or operator needs.';
