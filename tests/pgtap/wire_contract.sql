\ir setup.include
SELECT plan(31);

SELECT is(
    (SELECT array_agg(attname || ' ' || format_type(atttypid, atttypmod) ORDER BY attnum)
     FROM pg_attribute WHERE attrelid = 'mq_new_t'::regclass AND attnum > 0),
    ARRAY['id uuid', 'delay interval', 'retries integer', 'retry_backoff interval', 'channel_name text',
          'channel_args text', 'commit_interval interval', 'ordered boolean', 'name text', 'payload_json text',
          'payload_bytes bytea'],
    'mq_new_t has the eleven attributes of the crate, in its order');

-- The crate's statements, as it sends them.
PREPARE crate_insert (uuid, interval, integer, interval, text, text, interval, boolean, text, text, bytea) AS
    SELECT mq_insert(ARRAY[($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)::mq_new_t]);
PREPARE crate_poll (text[], integer) AS SELECT * FROM mq_poll($1, $2);
PREPARE crate_exists (uuid) AS SELECT EXISTS (SELECT id FROM mq_msgs WHERE id = $1);
PREPARE crate_keep_alive (uuid, interval) AS SELECT mq_keep_alive(ARRAY[$1], $2);
PREPARE crate_checkpoint (uuid, interval, text, bytea, integer) AS SELECT mq_checkpoint($1, $2, $3, $4, $5);
PREPARE crate_commit (uuid[]) AS SELECT mq_commit($1);
PREPARE crate_delete (uuid) AS SELECT mq_delete(ARRAY[$1]);
PREPARE crate_clear (text[]) AS SELECT mq_clear($1);

SELECT is((SELECT count(*) FROM mq_poll(NULL)), 1::bigint, 'an empty queue answers a poll with one row');
SELECT results_eq('SELECT id, is_committed, name, payload_json, payload_bytes, retry_backoff, wait_time FROM mq_poll(NULL)',
    $$VALUES (NULL::uuid, NULL::boolean, NULL::text, NULL::text, NULL::bytea, NULL::interval, NULL::interval)$$,
    '… of NULLs, wait_time included: nothing is scheduled');

SELECT lives_ok($$EXECUTE crate_insert (job(1), '0', 4, '1 second', '', '', NULL, false, 'foo', '{"a": [1, 2]}', '\x00ff')$$,
    'mq_insert takes what the crate sends');
SELECT results_eq('EXECUTE crate_exists (job(1))', 'VALUES (true)', 'the crate''s exists finds the job');
SELECT results_eq('EXECUTE crate_exists (job(2))', 'VALUES (false)', '… and no other');
SELECT results_eq(
    'SELECT id, is_committed, name, payload_json::jsonb, payload_bytes, retry_backoff, wait_time FROM mq_poll(NULL, 32)',
    $$VALUES (job(1), true, 'foo', '{"a": [1, 2]}'::jsonb, '\x00ff'::bytea, interval '1 second', interval '0')$$,
    'mq_poll returns the columns that the crate reads by name');
SELECT is(pg_typeof(payload_json)::text, 'text', 'payload_json comes as text') FROM mq_poll(NULL);
SELECT ok((SELECT wait_time BETWEEN '0.5 seconds' AND '1 second' FROM mq_poll(NULL, 32)),
    'with everything running, wait_time is the time until the next lease is over');
SELECT lives_ok($$EXECUTE crate_keep_alive (job(1), '10 seconds')$$, 'mq_keep_alive takes what the crate sends');
SELECT ok((SELECT leased_until > clock_timestamp() + '9 seconds' FROM mq_jobs WHERE id = job(1)), '… and pushes the lease');
SELECT lives_ok($$EXECUTE crate_checkpoint (job(1), '20 seconds', '"progress"', NULL, 3)$$, 'mq_checkpoint takes what the crate sends');
SELECT results_eq('SELECT payload_json::text, payload_bytes, attempts_left FROM mq_jobs WHERE id = job(1)',
    $$VALUES ('"progress"', '\x00ff'::bytea, 7)$$, '… replaces the payload part that is given, and adds retries');
SELECT ok((SELECT leased_until > clock_timestamp() + '19 seconds' FROM mq_jobs WHERE id = job(1)), '… and keeps the job alive');
SELECT lives_ok($$EXECUTE crate_checkpoint (job(7), '0', NULL, NULL, 0)$$, 'a check-point of an unknown job is passed over');
SELECT lives_ok($$EXECUTE crate_delete (job(1))$$, 'mq_delete takes what the crate sends');
SELECT results_eq('EXECUTE crate_exists (job(1))', 'VALUES (false)', '… and the job is gone');

SELECT mq_insert(ARRAY[crate_job(n, channel_name => CASE WHEN n < 4 THEN 'foo' WHEN n < 7 THEN 'bar' ELSE 'baz' END)])
FROM generate_series(1, 9) AS n;
SELECT lives_ok($$EXECUTE crate_clear ('{foo,baz}')$$, 'mq_clear takes what the crate sends');
SELECT bag_eq('SELECT id FROM mq_msgs', 'SELECT job(n) FROM generate_series(4, 6) AS n', '… and clears those channels only');
SELECT results_eq('SELECT claim()', 'VALUES (4), (5), (6)', '… so that the others run');
SELECT lives_ok('SELECT mq_clear_all()', 'mq_clear_all takes what the crate sends');
SELECT is_empty('SELECT id FROM mq_msgs', '… and leaves nothing');

SELECT lives_ok($$EXECUTE crate_insert (job(10), '0', 4, '1 second', '', '', '30 seconds', true, 'foo', NULL, NULL)$$,
    'a reservation is inserted as the crate does it');
SELECT is_empty('SELECT claim()', '… and is not handed out');
SELECT lives_ok($$EXECUTE crate_commit (ARRAY[job(10)])$$, 'mq_commit takes what the crate sends');
SELECT results_eq('SELECT claim()', 'VALUES (10)', '… and makes it real');

SELECT lives_ok('DELETE FROM mq_msgs', 'the owner can delete rows of mq_msgs');
SELECT is_empty('SELECT claim()', '… and polls do not mind');
SELECT mq_insert(ARRAY[crate_job(11), crate_job(12)]);
DELETE FROM mq_msgs WHERE id = job(11);
SELECT results_eq('SELECT claim(NULL, 1)', 'VALUES (12)', 'a ticket whose job was deleted by hand does not use up a place in the batch');
SELECT lives_ok('SELECT * FROM mq_poll(NULL, 1, interval ''5 s'', ''me'')', 'trailing arguments have defaults');
SELECT is(mq_notify_channel('foo'), 'mq_foo', 'a channel name is announced as mq_ and the name');
SELECT * FROM finish();
ROLLBACK;
