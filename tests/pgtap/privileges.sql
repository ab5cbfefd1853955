\ir setup.include
SELECT plan(32);

CREATE ROLE mq_test_nobody;
CREATE ROLE mq_test_producer;
CREATE ROLE mq_test_worker;
CREATE ROLE mq_test_observer;
CREATE ROLE mq_test_operator;
GRANT USAGE ON SCHEMA public TO PUBLIC;
SELECT mq_grant('mq_test_producer', 'producer'), mq_grant('mq_test_worker', 'worker'),
       mq_grant('mq_test_observer', 'observer'), mq_grant('mq_test_operator', 'operator');

CREATE FUNCTION callable(role name) RETURNS SETOF name LANGUAGE sql AS $$
    SELECT DISTINCT proname FROM pg_proc JOIN pg_depend ON objid = pg_proc.oid AND deptype = 'e'
        AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'sqlxmq')
    WHERE has_function_privilege(role, pg_proc.oid, 'EXECUTE')
$$;
CREATE FUNCTION readable(role name) RETURNS SETOF name LANGUAGE sql AS $$
    SELECT relname FROM pg_class WHERE relname LIKE 'mq\_%' AND relkind IN ('r', 'v', 'S')
    AND CASE relkind WHEN 'S' THEN has_sequence_privilege(role, oid, 'SELECT, USAGE, UPDATE')
        ELSE has_table_privilege(role, oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE') END
$$;

SELECT is_empty('SELECT callable(''mq_test_nobody'')', 'PUBLIC can call nothing');
SELECT is_empty('SELECT readable(''mq_test_nobody'')', 'PUBLIC can read nothing');
SELECT is(has_column_privilege('mq_test_nobody', 'mq_msgs', 'id', 'SELECT'), false, '… not even a job''s id');
SELECT is(has_type_privilege('mq_test_nobody', 'mq_new_t', 'USAGE'), false, '… nor use the type');
SELECT set_eq('SELECT callable(''mq_test_producer'')',
    $$VALUES ('mq_version'::name), ('mq_notify_channel'), ('mq_insert'), ('mq_enqueue'), ('mq_enqueue_many'), ('mq_enqueue_trigger'), ('mq_commit')$$, 'a producer can send');
SELECT is_empty('SELECT readable(''mq_test_producer'')', '… and read no table');
SELECT set_eq('SELECT callable(''mq_test_worker'')',
    $$VALUES ('mq_version'::name), ('mq_notify_channel'), ('mq_poll'), ('mq_keep_alive'), ('mq_checkpoint'), ('mq_complete'), ('mq_fail'), ('mq_release'), ('mq_delete')$$, 'a worker can poll and report');
SELECT is_empty('SELECT readable(''mq_test_worker'')', '… and read no table');
SELECT set_eq('SELECT callable(''mq_test_observer'')', $$VALUES ('mq_version'::name), ('mq_notify_channel'), ('mq_status'), ('mq_explain')$$, 'an observer can call what only looks');
SELECT set_eq('SELECT readable(''mq_test_observer'')', $$VALUES ('mq_jobs'::name), ('mq_running_jobs'), ('mq_dead_jobs'), ('mq_workers')$$, '… and read the views');
SELECT set_eq('SELECT callable(''mq_test_operator'')',
    $$SELECT DISTINCT substring(line FROM '(mq_[a-z_]+)')::name FROM unnest(ARRAY['mq_version', 'mq_notify_channel', 'mq_insert', 'mq_enqueue', 'mq_enqueue_many',
      'mq_enqueue_trigger', 'mq_commit', 'mq_poll', 'mq_keep_alive', 'mq_checkpoint', 'mq_complete', 'mq_fail', 'mq_release', 'mq_delete',
      'mq_status', 'mq_explain', 'mq_cancel', 'mq_retry', 'mq_clear', 'mq_clear_all', 'mq_configure']) AS line$$, 'an operator can do everything');
SELECT set_eq('SELECT readable(''mq_test_operator'')', $$VALUES ('mq_jobs'::name), ('mq_running_jobs'), ('mq_dead_jobs'), ('mq_workers'), ('mq_msgs')$$, '… and read the views and the jobs');

SET ROLE mq_test_producer;
SELECT lives_ok($$SELECT mq_enqueue('secret', '{"password": 1}', id => job(1), ordered => true)$$, 'a producer sends');
SELECT lives_ok($$SELECT mq_insert(ARRAY[crate_job(2)])$$, '… as the crate does, too');
SELECT lives_ok($$SELECT mq_enqueue_many('{secret}', ids => ARRAY[job(3)], delays => '{1 day}')$$, '… many at once, too');
SELECT results_eq('SELECT EXISTS (SELECT id FROM mq_msgs WHERE id = job(1))', 'VALUES (true)', '… and can ask whether a job exists');
SELECT throws_ok('SELECT payload_json FROM mq_msgs', '42501', NULL, '… but reads no payload');
SELECT throws_ok('SELECT * FROM mq_poll(NULL)', '42501', NULL, '… and claims nothing');
SELECT throws_ok('SELECT mq_delete(ARRAY[job(1)])', '42501', NULL, '… and deletes nothing');
RESET ROLE;
SET ROLE mq_test_worker;
SELECT set_eq('SELECT id FROM mq_poll(NULL, 10)', 'VALUES (job(1)), (job(2))', 'a worker claims');
SELECT lives_ok('SELECT mq_complete(job(1), 1)', '… and completes');
SELECT throws_ok($$SELECT mq_enqueue('x')$$, '42501', NULL, '… but does not send');
SELECT throws_ok('SELECT mq_clear_all()', '42501', NULL, '… and does not clear');
RESET ROLE;
SET ROLE mq_test_observer;
SELECT set_eq('SELECT id, state FROM mq_jobs', $$VALUES (job(2), 'running'), (job(3), 'scheduled')$$, 'an observer sees the jobs');
SELECT results_eq('SELECT running FROM mq_workers', 'VALUES (1::bigint)', '… and who works');
SELECT throws_ok('SELECT mq_cancel(ARRAY[job(2)])', '42501', NULL, '… but cannot touch them');
RESET ROLE;
SET ROLE mq_test_operator;
SELECT lives_ok('SELECT mq_cancel(ARRAY[job(2)])', 'an operator cancels');
SELECT throws_ok($$SELECT mq_grant('mq_test_nobody', 'operator')$$, '42501', NULL, '… but only the owner grants');
RESET ROLE;
-- Making JSON of a row can call functions of the row's types: never with the rights of the extension's owner.
SELECT is((SELECT prosecdef FROM pg_proc WHERE proname = 'mq_enqueue_trigger'), false, 'the trigger function runs with the rights of who changes the row');
CREATE TABLE noted (id integer);
CREATE TRIGGER send AFTER INSERT ON noted FOR EACH ROW EXECUTE FUNCTION mq_enqueue_trigger('note');
GRANT INSERT ON noted TO mq_test_producer, mq_test_worker;
SET ROLE mq_test_producer;
SELECT lives_ok('INSERT INTO noted VALUES (1)', '… who sends the job as a producer');
RESET ROLE;
SET ROLE mq_test_worker;
SELECT throws_ok('INSERT INTO noted VALUES (1)', '42501', NULL, '… or not at all');
RESET ROLE;
-- An object of the user's own, earlier on his search_path, is never taken for one of ours.
CREATE SCHEMA trap;
CREATE FUNCTION trap.mq_refuse(text, text, text, text) RETURNS void LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'trapped'; END$$;
CREATE TEMP TABLE mq_msgs (id uuid);
SET LOCAL search_path = trap, public;
SELECT throws_ok('SELECT mq_delete(NULL)', '22004', NULL, 'functions and tables that shadow the extension''s are not used');
SELECT * FROM finish();
ROLLBACK;
