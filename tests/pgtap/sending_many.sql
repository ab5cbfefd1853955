\ir setup.include
SELECT plan(22);

SELECT is_empty('SELECT mq_enqueue_many(''{}'')', 'no names: nothing is sent, and nothing returned');
SELECT is_empty('SELECT id FROM mq_msgs', '… indeed');

-- What mq_enqueue_many leaves out is what mq_enqueue leaves out.
CREATE FUNCTION properties(id uuid) RETURNS jsonb LANGUAGE sql AS $$
    SELECT to_jsonb(job) - ARRAY['id', 'position', 'created_at', 'channel'] || jsonb_build_object('delay', job.due_at - job.created_at)
    FROM mq_msgs AS job WHERE job.id = $1
$$;
SELECT is(properties(mq_enqueue_many('{x}')), properties(mq_enqueue('x')), 'its defaults are those of mq_enqueue');
SELECT is(properties(mq_enqueue_many('{x}', '{NULL}', '{NULL}', '{NULL}', '{NULL}', '{NULL}', '{NULL}', '{NULL}', '{NULL}', '{NULL}', '{NULL}', '{NULL}', '{NULL}', '{NULL}')),
    properties(mq_enqueue('x')), '… also for elements that are NULL');
SELECT mq_clear_all();
SELECT mq_enqueue_many('{x}', ordered => '{t}'), mq_enqueue('x', ordered => true, channel_args => 'other');
SELECT is(properties(min(id::text)::uuid) - 'channel_args', properties(max(id::text)::uuid) - 'channel_args', '… and of ordered jobs') FROM mq_msgs;
SELECT results_eq($$SELECT pg_get_function_arguments('mq_enqueue_many'::regproc) LIKE '% DEFAULT NULL%', (SELECT count(*) FROM regexp_matches(pg_get_function_arguments('mq_enqueue_many'::regproc), ' DEFAULT NULL::', 'g'))$$,
    $$SELECT true, pronargs - 1::bigint FROM pg_proc WHERE proname = 'mq_enqueue'$$, 'it takes all that mq_enqueue takes, and needs nothing but the names');

SELECT mq_clear_all();
SELECT results_eq($$SELECT mq_enqueue_many('{a,b,c}', ids => ARRAY[job(3), job(1), job(2)])$$, 'VALUES (job(3)), (job(1)), (job(2))', 'the ids come in the order of the names');
SELECT results_eq('SELECT claim()', 'VALUES (3), (1), (2)', '… in which they are sent');
SELECT mq_clear_all();
CREATE TEMP TABLE sent AS SELECT * FROM mq_enqueue_many(ARRAY['a', 'b', 'c', 'd'], ids => ARRAY[NULL, job(1), NULL, NULL]) WITH ORDINALITY AS sent (id, n);
SELECT results_eq('SELECT name FROM sent JOIN mq_msgs USING (id) ORDER BY n', $$VALUES ('a'), ('b'), ('c'), ('d')$$, '… the new ones among them');
SELECT mq_clear_all();
SELECT mq_enqueue_many('{plain,all}', payloads => ARRAY[NULL, '{ "n" : 1 }'], channel_names => '{NULL,c}', channel_args => '{NULL,a}', delays => '{NULL,1 hour}', retries => '{NULL,2}',
    retry_backoffs => '{NULL,5 seconds}', ordered => '{NULL,t}', commit_intervals => '{NULL,1 minute}', payloads_bytes => ARRAY[NULL, '\x0102'::bytea],
    when_dead => '{NULL,pass}', headers => ARRAY[NULL, '{"a": "b"}']);
SELECT set_eq('SELECT name, state, payload_json::text, channel_name, channel_args, attempts_left, retry_backoff, ordered, when_dead, payload_bytes, headers::text, reserved_until - due_at FROM mq_jobs',
    $$VALUES ('plain', 'ready', NULL, '', '', 5, interval '1 second', false, 'hold', NULL::bytea, NULL, NULL::interval),
             ('all', 'scheduled', '{ "n" : 1 }', 'c', 'a', 3, '5 seconds', true, 'pass', '\x0102', '{"a": "b"}', '1 minute')$$, 'every property can be given for each job');
SELECT ok((SELECT due_at = created_at + interval '1 hour' FROM mq_jobs WHERE name = 'all'), '… the delay, too');
SELECT mq_clear_all();
SELECT mq_enqueue_many('{a,b,c}', priorities => '{2,NULL,-1}', ids => ARRAY[job(1), job(2), job(3)]);
SELECT results_eq('SELECT claim()', 'VALUES (3), (2), (1)', '… and the priority');
SELECT mq_clear_all();
SELECT mq_enqueue_many('{a,b,c}', ordered => '{t,t,t}', ids => ARRAY[job(5), job(4), job(6)]);
SELECT results_eq('SELECT id, state FROM mq_jobs ORDER BY position', $$VALUES (job(5), 'ready'), (job(4), 'blocked'), (job(6), 'blocked')$$, 'ordered jobs of a call run in the order of the names');

SELECT mq_clear_all();
SELECT throws_ok($$SELECT mq_enqueue_many('{a,b,c}', retries => '{1,-1,1}')$$, '22003', NULL, 'a bad job refuses all');
SELECT throws_ok($$SELECT mq_enqueue_many('{a,b}', ids => ARRAY[job(1), job(1)])$$, '23505', NULL, '… as does an id that is there twice');
SELECT is_empty('SELECT id FROM mq_msgs', '… and nothing of them is sent');
SELECT is((SELECT count(*) FROM mq_enqueue_many('[0:1]={a,b}'::text[], headers => '[5:6]={NULL,NULL}'::text[])), 2::bigint, 'arrays may begin anywhere');
SELECT mq_clear_all();
SELECT is((SELECT count(DISTINCT id) FROM mq_enqueue_many(ARRAY(SELECT 'many' FROM generate_series(1, 20000))) AS id), 20000::bigint, 'twenty thousand jobs go in one call');
SELECT is((SELECT count(*) FROM mq_ready), 20000::bigint, '… and are ready');
SELECT results_eq($$SELECT DISTINCT substr(id::text, 15, 1) FROM mq_msgs$$, $$VALUES ('7')$$, '… under ids of version 7');
SELECT mq_clear_all();
SELECT lives_ok($$PREPARE many (text[], text[]) AS SELECT mq_enqueue_many($1, $2)$$, 'a client can prepare the call');
SELECT is((SELECT count(*) FROM mq_enqueue_many(names => '{a,b}', payloads => '{1,2}')), 2::bigint, '… and name its arguments');
SELECT * FROM finish();
ROLLBACK;
