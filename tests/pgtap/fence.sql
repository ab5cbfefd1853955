\ir setup.include
SELECT plan(35);
CREATE TABLE effect (id uuid);

SELECT mq_insert(ARRAY[crate_job(1, retries => 9)]);
SELECT throws_ok('SELECT mq_complete(job(1), 1)', 'MQ001',
    'job 00000000-0000-0000-0000-000000000001 is not held at attempt 1', 'a job that is ready cannot be completed');
SELECT throws_ok('SELECT mq_complete(job(99), 1)', 'MQ001', NULL, 'nor can one that does not exist');
SELECT mq_poll(NULL);
SELECT throws_ok('SELECT mq_complete(job(1), 0)', 'MQ001', NULL, 'nor one at an attempt before the current');
SELECT throws_ok('SELECT mq_complete(job(1), 2)', 'MQ001', NULL, 'nor one at an attempt to come');
SELECT pass_time('2 seconds');
SELECT mq_poll(NULL);
SELECT throws_ok('SELECT mq_complete(job(1), 1)', 'MQ001', NULL, 'a holder that lost its lease to another cannot complete');
SELECT is((SELECT count(*) FROM mq_msgs), 1::bigint, '… and the job is still there');
PREPARE late_worker AS
    WITH effect AS (INSERT INTO effect VALUES (job(1)) RETURNING id) SELECT mq_complete(id, 1) FROM effect;
SELECT throws_ok('EXECUTE late_worker', 'MQ001', NULL, 'a late worker''s statement fails');
SELECT is_empty('SELECT * FROM effect', '… and takes its effects with it');
SELECT lives_ok('SELECT mq_complete(job(1), 2)', 'the holder of the current attempt completes');
SELECT is_empty('SELECT * FROM mq_msgs', '… which removes the job');
SELECT throws_ok('SELECT mq_complete(job(1), 2)', 'MQ001', NULL, '… once');

SELECT mq_insert(ARRAY[crate_job(2)]);
SELECT mq_poll(NULL);
SELECT pass_time('1 hour');
SELECT lives_ok('SELECT mq_complete(job(2), 1)', 'a lease that is over, but taken by nobody else, still completes');

SELECT mq_insert(ARRAY[crate_job(3), crate_job(4), crate_job(5, delay => '1 hour'), crate_job(6), crate_job(7, ordered => true), crate_job(8, ordered => true)]);
SELECT mq_poll(ARRAY[''], 2);
SELECT results_eq('SELECT mq_complete(ARRAY[job(8), job(7), job(6), job(5), job(4), job(3)], ARRAY[1, 1, 1, 1, 1, 2])',
    'VALUES (job(4))', 'the array form removes those that are held at the attempt given, and returns them');
SELECT set_eq('SELECT id FROM mq_msgs', 'VALUES (job(3)), (job(5)), (job(6)), (job(7)), (job(8))',
    '… not ready, scheduled or blocked ones, nor those of another attempt');
SELECT set_eq('SELECT claim()', 'VALUES (6), (7)', '… which run as before');

SELECT throws_ok('SELECT mq_fail(job(3), 2, ''late'')', 'MQ001', NULL, 'mq_fail is fenced');
SELECT throws_ok('SELECT mq_fail(job(5), 1, ''early'')', 'MQ001', NULL, '… against those who never held the job, too');
SELECT is(mq_fail(job(3), 1, 'boom'), 'scheduled', 'the holder gives a failed job back, for after its backoff');
SELECT results_eq('SELECT state, last_error, attempts_left FROM mq_jobs WHERE id = job(3)', $$VALUES ('scheduled', 'boom', 4)$$, '… with its error kept');
SELECT is_empty('SELECT claim()', '… and is not claimed before that');
SELECT pass_time('900 milliseconds');
SELECT mq_keep_alive(ARRAY[job(6), job(7)], '1 hour');
SELECT pass_time('100 milliseconds');
SELECT results_eq('SELECT claim()', 'VALUES (3)', '… but after');
SELECT is(mq_fail(job(3), 2, 'again', '0'), 'ready', 'with retry_in 0 it is ready at once');
SELECT results_eq('SELECT attempt FROM mq_poll(NULL)', 'VALUES (3)', '… for the next attempt');
SELECT is(mq_fail(job(3), 3, 'later', '1 day'), 'scheduled', 'retry_in is the time until the next attempt');
SELECT ok((SELECT due_at BETWEEN clock_timestamp() + '23 hours' AND clock_timestamp() + '1 day' FROM mq_jobs WHERE id = job(3)), '… exactly');
SELECT results_eq($$SELECT msg_id, state FROM mq_fail(ARRAY[job(6), job(3), job(7)], ARRAY[1, 3, 2], ARRAY['x', 'y', 'z'])$$,
    $$VALUES (job(6), 'scheduled')$$, 'the array form fails those that are held, and returns them');

SELECT mq_clear_all();
SELECT mq_insert(ARRAY[crate_job(11), crate_job(12, delay => '1 hour')]);
SELECT mq_poll(NULL, 10, '1 minute');
SELECT results_eq('SELECT * FROM mq_keep_alive(ARRAY[job(11), job(11), job(12), job(13)], ''1 hour'', ARRAY[2, 1, 1, 1])',
    'VALUES (job(11), false, false), (job(11), true, false), (job(12), false, false), (job(13), false, false)',
    'keep-alive tells for each job whether it is held at that attempt');
SELECT ok((SELECT due_at < clock_timestamp() + '61 minutes' FROM mq_jobs WHERE id = job(12)), '… and does not touch one that waits');
SELECT throws_ok($$SELECT mq_checkpoint(job(11), '1 hour', '"stale"', NULL, 0, 2)$$, 'MQ001', NULL, 'a check-point with an attempt is fenced');
SELECT is((SELECT payload_json::text FROM mq_msgs WHERE id = job(11)), NULL, '… and writes nothing for a stranger');
SELECT lives_ok($$SELECT mq_checkpoint(job(11), '2 hours', '"mine"', '\x01', 1, 1)$$, 'the holder''s check-point is written');
SELECT results_eq('SELECT payload_json::text, payload_bytes, attempts_left FROM mq_jobs WHERE id = job(11)', $$VALUES ('"mine"', '\x01'::bytea, 5)$$, '… payload, bytes and added retries');
SELECT pass_time('3 hours');
SELECT set_eq($$SELECT payload_json FROM mq_poll(NULL, 10) WHERE id = job(11)$$, $$VALUES ('"mine"')$$, 'the next attempt starts from the check-point');
SELECT mq_delete(ARRAY[job(11)]);
SELECT throws_ok('SELECT mq_complete(job(11), 2)', 'MQ001', NULL, 'after an unfenced delete the holder''s completion fails');
SELECT mq_clear_all();
SELECT is((SELECT count(*) FROM mq_ready) + (SELECT count(*) FROM mq_scheduled) + (SELECT count(*) FROM mq_claims), 0::bigint, 'clearing all leaves no ticket and no claim');
SELECT * FROM finish();
ROLLBACK;
