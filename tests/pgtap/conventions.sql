\ir setup.include
SELECT plan(12);

CREATE TEMP VIEW member AS
SELECT classid, objid, pg_describe_object(classid, objid, 0) AS description
FROM pg_depend WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
    AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'sqlxmq');

SELECT is_empty($$SELECT description FROM member
    WHERE classid = 'pg_proc'::regclass AND obj_description(objid, 'pg_proc') IS NULL$$, 'every function has a comment');
SELECT is_empty($$SELECT description FROM member
    WHERE classid = 'pg_class'::regclass AND obj_description(objid, 'pg_class') IS NULL$$, 'every table, view and sequence has a comment');
SELECT is_empty($$SELECT description FROM member JOIN pg_type ON pg_type.oid = objid
    WHERE classid = 'pg_type'::regclass AND typtype = 'c' AND typname = 'mq_new_t' AND obj_description(objid, 'pg_type') IS NULL$$, 'the type has a comment');
SELECT is_empty($$SELECT relname, attname FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
    WHERE (attrelid IN (SELECT objid FROM member WHERE classid = 'pg_class'::regclass) OR relname = 'mq_new_t')
      AND relkind IN ('r', 'c') AND attnum > 0 AND col_description(attrelid, attnum) IS NULL$$, 'every column of a table and of the type has a comment');
SELECT is_empty($$SELECT tgname FROM pg_trigger WHERE tgrelid = 'mq_msgs'::regclass AND obj_description(oid, 'pg_trigger') IS NULL$$, 'the trigger has a comment');
SELECT is_empty($$SELECT description FROM member JOIN pg_proc ON pg_proc.oid = objid
    WHERE classid = 'pg_proc'::regclass AND prosqlbody IS NULL
      AND NOT coalesce(proconfig[1] ~ '^search_path=pg_catalog, .*, pg_temp$', false)$$,
    'every function pins its search_path, pg_temp last, or has a body that was parsed when it was created');
SELECT is_empty($$SELECT description FROM member LEFT JOIN pg_class ON classid = 'pg_class'::regclass AND pg_class.oid = objid
    LEFT JOIN pg_proc ON classid = 'pg_proc'::regclass AND pg_proc.oid = objid
    WHERE coalesce(relname, proname) NOT LIKE 'mq\_%'$$, 'everything is prefixed mq_');
SELECT is_empty($$SELECT relname FROM pg_class JOIN member ON classid = 'pg_class'::regclass AND objid = pg_class.oid
    WHERE relkind IN ('r', 'S') AND pg_class.oid <> ALL (SELECT unnest(extconfig) FROM pg_extension WHERE extname = 'sqlxmq')
      AND obj_description(pg_class.oid, 'pg_class') NOT LIKE '%Not dumped%'$$,
    'every table and sequence is dumped with the user''s data, but for what polls find out anew');
SELECT is((SELECT array_agg(extname ORDER BY extname) FROM pg_extension JOIN pg_depend ON refobjid = pg_extension.oid AND objid = (SELECT oid FROM pg_extension WHERE extname = 'sqlxmq')
    WHERE deptype = 'n'), NULL, 'no other extension is needed');
SELECT is(mq_version(), (SELECT extversion FROM pg_extension WHERE extname = 'sqlxmq'), 'mq_version is the version that is installed');
SELECT is_empty($$SELECT relname FROM pg_class WHERE relkind = 'r' AND relname LIKE 'mq\_%'
    AND NOT EXISTS (SELECT FROM pg_index WHERE indrelid = pg_class.oid AND indisprimary)$$, 'every table has a primary key, so that it can be replicated logically');
-- What changes in a job's row is in no index, so that it changes in place.
SELECT results_eq($$SELECT array_agg(attname) FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = ANY (indkey)
    WHERE indrelid = 'mq_msgs'::regclass$$, $$VALUES (ARRAY['id'::name])$$, 'the jobs'' table has one index, on the id');
SELECT * FROM finish();
ROLLBACK;
