\ir setup.include
SELECT plan(48);

SELECT lives_ok($$SELECT mq_enqueue('hello', '{"to": "world"}')$$, 'mq_enqueue needs a name and, mostly, a payload');
SELECT results_eq(
    'SELECT state, name, channel_name, channel_args, priority::int, ordered, when_dead, attempts_left, retry_backoff, payload_json::text, payload_bytes FROM mq_jobs',
    $$VALUES ('ready', 'hello', '', '', 0, false, 'hold', 5, interval '1 second', '{"to": "world"}', NULL::bytea)$$,
    'its defaults are those of the crate');
SELECT is(mq_enqueue('named', id => job(7)), job(7), 'an id can be given, and is returned');
SELECT results_eq($$SELECT n FROM (SELECT n, mq_enqueue('x') AS id FROM generate_series(1, 50) AS n) AS sent ORDER BY substr(id::text, 1, 13), n$$,
    'SELECT generate_series(1, 50)', 'ids that are not given grow with time');
SELECT is((SELECT count(*) FROM mq_msgs WHERE substr(id::text, 15, 1) = '7' AND substr(id::text, 20, 1) IN ('8', '9', 'a', 'b')), 51::bigint, '… as UUIDs of version 7');
SELECT mq_clear_all();
SELECT mq_enqueue('all', '[1]', channel_name => 'c', channel_args => 'a', delay => '1 hour', retries => 2, retry_backoff => '5 seconds',
    ordered => true, payload_bytes => '\x0102', when_dead => 'pass');
SELECT results_eq('SELECT state, channel_name, channel_args, ordered, when_dead, attempts_left, retry_backoff, payload_bytes FROM mq_jobs',
    $$VALUES ('scheduled', 'c', 'a', true, 'pass', 3, interval '5 seconds', '\x0102'::bytea)$$, 'every property can be given by name');
SELECT mq_clear_all();
SELECT mq_enqueue('reserved', commit_interval => '1 minute', id => job(1));
SELECT is_empty('SELECT claim()', 'a commit_interval makes it a reservation');
SELECT is((SELECT count(*) FROM mq_commit(ARRAY[job(1)])), 1::bigint, '… to be committed');
SELECT mq_enqueue('urgent', priority => -1, id => job(2));
SELECT results_eq('SELECT claim()', 'VALUES (2), (1)', 'a priority can be given');
SELECT mq_clear_all();

SELECT lives_ok('SELECT mq_insert(ARRAY[]::mq_new_t[])', 'sending no jobs is no error');
SELECT lives_ok($$SELECT mq_insert(ARRAY[crate_job(n, payload_json => '{"n":' || n || '}') ]) FROM generate_series(1, 3) AS n$$, 'payloads');
SELECT results_eq('SELECT payload_json FROM mq_poll(NULL, 10)', $$VALUES ('{"n":1}'), ('{"n":2}'), ('{"n":3}')$$, '… arrive as they were sent');
SELECT mq_clear_all();
SELECT throws_ok('SELECT mq_insert(ARRAY[crate_job(1), crate_job(2), crate_job(1)])', '23505', NULL, 'of a batch with an id twice');
SELECT is_empty('SELECT id FROM mq_msgs', '… nothing is sent');
SELECT mq_insert(ARRAY[crate_job(1)]);
SELECT throws_ok('SELECT mq_insert(ARRAY[crate_job(2), crate_job(1)])', '23505',
    'id is 00000000-0000-0000-0000-000000000001, but another job has this id', 'an id that is in use is refused, and named');
SELECT results_eq('SELECT id FROM mq_msgs', 'VALUES (job(1))', '… and nothing of the batch is sent');
SELECT mq_clear_all();
SELECT mq_insert(ARRAY[crate_job(1, channel_name => repeat('n', 1000), channel_args => repeat('ä', 1000)), crate_job(2, channel_name => 'Ünïcode "quoted" name')]);
SELECT is((SELECT count(*) FROM claim(ARRAY[repeat('n', 1000)])), 1::bigint, 'a channel name may have a thousand characters');
SELECT is((SELECT count(*) FROM claim(ARRAY['Ünïcode "quoted" name'])), 1::bigint, '… of any kind');
SELECT is(mq_notify_channel(repeat('n', 60)), 'mq_' || repeat('n', 60), 'a name of 60 bytes is announced as it is');
SELECT is(mq_notify_channel(repeat('n', 61)), 'mq_' || left(encode(sha256(convert_to(repeat('n', 61), 'UTF8')), 'hex'), 60), 'a longer one by its hash');
SELECT is(octet_length(mq_notify_channel(repeat('ä', 1000))), 63, '… which fits into 63 bytes');

-- A job that is sent by itself is written by other statements than one in company.
SELECT mq_clear_all();
CREATE TEMP TABLE sample ON COMMIT DROP AS
SELECT n, delay, commit_interval, priority, when_dead, payload_bytes
FROM (SELECT row_number() OVER () AS n, *
      FROM unnest(ARRAY['0', '1 hour']::interval[]) AS delay,
           unnest(ARRAY[NULL, '0', '1 minute']::interval[]) AS commit_interval,
           unnest(ARRAY[0, -7]) AS priority,
           unnest(ARRAY['hold', 'pass']) AS when_dead,
           unnest(ARRAY[NULL, '\x00ff']::bytea[]) AS payload_bytes) AS each;
CREATE TEMP VIEW written AS
SELECT job.payload_json ->> 'n' AS n, job.payload_json::text, job.channel, job.channel_name, job.channel_args, job.name, job.priority, job.ordered,
       job.passes_when_dead, job.attempts_allowed, job.attempts_ended, job.retry_backoff, job.payload_bytes, job.headers::text,
       job.due_at - job.created_at AS due_in, job.reserved_until - job.created_at AS reserved_for,
       (SELECT (ticket.channel, ticket.priority)::text FROM mq_ready AS ticket WHERE ticket.id = job.id AND ticket.position = job.position) AS ready,
       (SELECT ticket.due_at - job.created_at FROM mq_scheduled AS ticket WHERE ticket.id = job.id) AS scheduled
FROM mq_msgs AS job;
CREATE TEMP TABLE alone ON COMMIT DROP AS SELECT * FROM written;
SELECT mq_insert(ARRAY[ROW(gen_random_uuid(), delay, 2, '3 s', 'c', 'a', commit_interval, false, 'x', format('{"n": %s}', n), payload_bytes)::mq_new_t],
    ARRAY[priority], ARRAY[when_dead]) FROM sample;
INSERT INTO alone SELECT * FROM written;
SELECT is((SELECT count(*) FROM alone), 48::bigint, 'jobs that are sent one by one');
SELECT mq_clear_all();
SELECT mq_insert(array_agg(ROW(gen_random_uuid(), delay, 2, '3 s', 'c', 'a', commit_interval, false, 'x', format('{"n": %s}', n), payload_bytes)::mq_new_t),
    array_agg(priority), array_agg(when_dead)) FROM sample;
SELECT bag_eq('SELECT * FROM written', 'SELECT * FROM alone', '… are those that are sent together');
SELECT mq_clear_all();
SELECT mq_enqueue('x', format('{"n": %s}', n)::jsonb, 'c', 'a', delay, 2, '3 s', false, priority, commit_interval, payload_bytes, when_dead) FROM sample;
SELECT bag_eq('SELECT * FROM written', 'SELECT * FROM alone', '… and by mq_enqueue');

-- Headers
SELECT mq_clear_all();
SELECT mq_enqueue('traced', headers => '{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}', id => job(1));
SELECT results_eq('SELECT headers::text FROM mq_jobs', $$VALUES ('{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}')$$, 'headers travel beside the payload');
SELECT results_eq('SELECT headers::jsonb ->> ''traceparent'', payload_json FROM mq_poll(NULL)', $$VALUES ('00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01', NULL::text)$$, '… to the worker');
SELECT is(pg_typeof(headers)::text, 'text', '… as text') FROM mq_poll(NULL);
SELECT mq_checkpoint(job(1), '0', '{"done": 1}', NULL, 0, 1);
SELECT mq_fail(job(1), 1, 'x', '0');
SELECT results_eq('SELECT headers::jsonb ? ''traceparent'', payload_json FROM mq_poll(NULL)', $$VALUES (true, '{"done": 1}')$$, '… at every attempt, whatever the payload has become');
SELECT mq_clear_all();
SELECT mq_enqueue('plain', id => job(1));
SELECT mq_enqueue('empty', headers => '{}', id => job(2));
SELECT results_eq('SELECT id, headers FROM mq_poll(NULL, 2)', $$VALUES (job(1), NULL), (job(2), '{}')$$, 'a job may be without, or with none');
SELECT mq_clear_all();
SELECT mq_insert(ARRAY[crate_job(1), crate_job(2), crate_job(3)], headers => ARRAY['{"a":"b"}', NULL, '{ "c" : "\u00e4" }']);
SELECT results_eq('SELECT id, headers FROM mq_poll(NULL, 3)', $$VALUES (job(1), '{"a":"b"}'), (job(2), NULL), (job(3), '{ "c" : "\u00e4" }')$$, 'mq_insert takes headers for each job, and keeps them as they were sent');
SELECT lives_ok($$SELECT mq_insert(ARRAY[]::mq_new_t[], headers => ARRAY[]::text[])$$, 'no headers for no jobs');

-- The trigger
SELECT mq_clear_all();
CREATE TABLE customer_order (id integer, customer text, note text);
CREATE TRIGGER send AFTER INSERT OR UPDATE OR DELETE ON customer_order FOR EACH ROW EXECUTE FUNCTION mq_enqueue_trigger('ship');
INSERT INTO customer_order VALUES (1, 'ann', 'first');
SELECT results_eq('SELECT name, payload_json::jsonb FROM mq_jobs',
    format($$VALUES ('ship', '{"operation": "INSERT", "schema": %s, "table": "customer_order", "new": {"id": 1, "customer": "ann", "note": "first"}, "old": null}'::jsonb)$$,
           to_json((SELECT relnamespace::regnamespace::text FROM pg_class WHERE oid = 'customer_order'::regclass))), 'an inserted row is sent as a job');
SELECT mq_clear_all();
UPDATE customer_order SET note = 'second';
SELECT results_eq($$SELECT payload_json ->> 'operation', payload_json #>> '{old,note}', payload_json #>> '{new,note}' FROM mq_jobs$$,
    $$VALUES ('UPDATE', 'first', 'second')$$, 'an update with both');
SELECT mq_clear_all();
DELETE FROM customer_order;
SELECT results_eq($$SELECT payload_json ->> 'operation', payload_json #>> '{old,note}', payload_json ->> 'new' FROM mq_jobs$$,
    $$VALUES ('DELETE', 'second', NULL)$$, 'a deletion with the old row');
SELECT mq_clear_all();
DROP TRIGGER send ON customer_order;
CREATE TRIGGER send BEFORE INSERT ON customer_order FOR EACH ROW EXECUTE FUNCTION mq_enqueue_trigger(
    'ship', 'channel_name=orders', 'channel_args_column=customer', 'columns=id,note', 'retries=9', 'retry_backoff=1 minute',
    'ordered=true', 'when_dead=pass', 'delay=1 hour', 'priority=3');
INSERT INTO customer_order VALUES (2, 'bob', 'x=y');
SELECT is((SELECT count(*) FROM customer_order), 1::bigint, 'as a BEFORE trigger it lets the row through');
SELECT results_eq($$SELECT channel_name, channel_args, attempts_left, retry_backoff, ordered, when_dead, state, payload_json -> 'new' #>> '{}' FROM mq_jobs$$,
    $$VALUES ('orders', 'bob', 10, interval '1 minute', true, 'pass', 'scheduled', '{"id": 2, "note": "x=y"}')$$, 'its options are given as option=value');
SELECT throws_ok('DROP TRIGGER send ON customer_order; CREATE TRIGGER send AFTER INSERT ON customer_order FOR EACH ROW EXECUTE FUNCTION mq_enqueue_trigger(''ship'', ''colour=red''); INSERT INTO customer_order VALUES (4)',
    '22023', NULL, 'an unknown option is refused');
SELECT throws_like('DROP TRIGGER send ON customer_order; CREATE TRIGGER send AFTER INSERT ON customer_order FOR EACH ROW EXECUTE FUNCTION mq_enqueue_trigger(''ship'', ''colour=red''); INSERT INTO customer_order VALUES (4)',
    'argument of trigger send is ''colour=red'', but it must be option=value with one of the options %', '… and named');
SELECT throws_ok('DROP TRIGGER send ON customer_order; CREATE TRIGGER send AFTER INSERT ON customer_order FOR EACH ROW EXECUTE FUNCTION mq_enqueue_trigger(''ship'', ''columns=id,colour''); INSERT INTO customer_order VALUES (4)',
    '22023', NULL, 'so is a column that is not there');
SELECT throws_ok('DROP TRIGGER send ON customer_order; CREATE TRIGGER send AFTER INSERT ON customer_order FOR EACH ROW EXECUTE FUNCTION mq_enqueue_trigger(); INSERT INTO customer_order VALUES (4)',
    '22023', 'trigger send is without arguments, but its first argument must be the job''s name', 'so is a trigger without the job''s name');
SELECT throws_ok('DROP TRIGGER send ON customer_order; CREATE TRIGGER send AFTER INSERT ON customer_order EXECUTE FUNCTION mq_enqueue_trigger(''ship''); INSERT INTO customer_order VALUES (4)',
    '22023', 'trigger send is FOR EACH STATEMENT, but it must be FOR EACH ROW', 'so is a statement trigger');
SELECT is((SELECT count(*) FROM customer_order), 1::bigint, 'a refused job takes the row change with it');

-- Sent in a transaction that rolls back
SELECT mq_clear_all();
SAVEPOINT before;
SELECT mq_insert(ARRAY[crate_job(1), crate_job(2, ordered => true), crate_job(3, delay => '1 s')]);
ROLLBACK TO before;
SELECT is_empty('SELECT id FROM mq_msgs', 'jobs that are rolled back were never there');
SELECT is((SELECT count(*) FROM mq_ready) + (SELECT count(*) FROM mq_scheduled) + (SELECT count(*) FROM mq_chains) + (SELECT count(*) FROM mq_heads), 0::bigint, '… nor anything of them');
SELECT mq_insert(ARRAY[crate_job(1)]);
SAVEPOINT before;
SELECT mq_poll(NULL);
ROLLBACK TO before;
SELECT results_eq('SELECT state, attempts_made FROM mq_jobs', $$VALUES ('ready', 0)$$, 'a claim that is rolled back never happened');
SELECT mq_poll(NULL);
SAVEPOINT before;
SELECT mq_complete(job(1), 1);
ROLLBACK TO before;
SELECT is(state_of(job(1)), 'running', 'a completion that is rolled back leaves the job with its holder');
SELECT lives_ok('SELECT mq_complete(job(1), 1)', '… who can complete it after all');
SELECT mq_insert(array_agg(crate_job(n))) FROM generate_series(1, 20000) AS n;
SELECT is((SELECT count(*) FROM mq_msgs), 20000::bigint, 'twenty thousand jobs go in one call');
SELECT * FROM finish();
ROLLBACK;
