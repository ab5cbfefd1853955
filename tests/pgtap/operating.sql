\ir setup.include
SELECT plan(35);

SELECT is_empty('SELECT * FROM mq_status()', 'an empty queue has no channels');
SELECT results_eq('SELECT state, waits_for, until FROM mq_explain(job(1))', $$VALUES ('gone', NULL::uuid, NULL::timestamptz)$$, 'an unknown job is gone');

SELECT mq_insert(ARRAY[
    crate_job(1, channel_name => 'a'), crate_job(2, channel_name => 'a'), crate_job(3, channel_name => 'a', delay => '1 hour'),
    crate_job(4, channel_name => 'b', ordered => true), crate_job(5, channel_name => 'b', ordered => true), crate_job(6, channel_name => 'b', ordered => true),
    crate_job(7, channel_name => 'b', channel_args => 'x', retries => 0), crate_job(8, channel_name => 'c', commit_interval => '1 hour'),
    crate_job(9, channel_name => 'b', ordered => true, commit_interval => '1 hour')]);
SELECT mq_poll('{b}', 2, '1 hour', 'box 1');
SELECT mq_fail(job(7), 1, 'no');
SELECT results_eq('SELECT channel_name, channel_args, ready, scheduled, running, blocked, dead, is_exact, held_by FROM mq_status()',
    $$VALUES ('a', '', 2::bigint, 1::bigint, 0::bigint, 0::bigint, 0::bigint, true, NULL::uuid),
             ('b', '', 0, 0, 1, 3, 0, true, job(4)),
             ('b', 'x', 0, 0, 0, 0, 1, true, NULL),
             ('c', '', 0, 1, 0, 0, 0, true, NULL)$$, 'mq_status counts each channel''s jobs by state, and names who holds it');
SELECT results_eq('SELECT channel_name, channel_args FROM mq_status(ARRAY[''b''])', $$VALUES ('b', ''), ('b', 'x')$$, '… for all channels or some');
SELECT results_eq('SELECT state, count(*) FROM mq_jobs GROUP BY state ORDER BY state',
    $$VALUES ('blocked', 3::bigint), ('dead', 1), ('ready', 2), ('running', 1), ('scheduled', 2)$$, 'mq_jobs agrees');
SELECT results_eq('SELECT ready, is_exact FROM mq_status(ARRAY[''a''], 1)', 'VALUES (1::bigint, false)', 'counts stop at the limit, and say so');
SELECT results_eq('SELECT id, channel_name, worker, attempt, attempts_left FROM mq_running_jobs', $$VALUES (job(4), 'b', 'box 1', 1, 4)$$, 'mq_running_jobs shows what runs where');
SELECT results_eq('SELECT id, last_error, holds_channel FROM mq_dead_jobs', $$VALUES (job(7), 'no', false)$$, 'mq_dead_jobs shows what died and why');

SELECT matches((SELECT explanation FROM mq_explain(job(2))), '^It is ready: the next poll for channel name ''a'' can claim it. Jobs of its channel before it: 1\.$', 'mq_explain: ready');
SELECT matches((SELECT explanation FROM mq_explain(job(3))), '^It is delayed until ', '… delayed');
SELECT matches((SELECT explanation FROM mq_explain(job(4))), '^It is running at attempt 1, held by box 1 until ', '… running');
SELECT results_eq('SELECT waits_for FROM mq_explain(job(6))', 'VALUES (job(4))', '… blocked, by whom');
SELECT matches((SELECT explanation FROM mq_explain(job(7))), '^Its only attempt is used up; .* The last error: no$', '… dead');
SELECT matches((SELECT explanation FROM mq_explain(job(8))), '^It is reserved only: ', '… reserved');
SELECT mq_cancel(ARRAY[job(4)]);
SELECT matches((SELECT explanation FROM mq_explain(job(4))), 'Its holder has been asked at .* to stop\.$', '… about to be cancelled');
SELECT mq_poll('{a}', 1);
SELECT mq_fail(job(1), 1, 'disk full', '1 day');
SELECT matches((SELECT explanation FROM mq_explain(job(1))), '^Attempt 1 failed, and it waits until .* for the next. The error: disk full$', '… backing off');
SELECT ok((SELECT until BETWEEN clock_timestamp() + '23 hours' AND clock_timestamp() + '24 hours' FROM mq_explain(job(1))), '… and until when');

SELECT mq_clear_all();
SELECT mq_insert(ARRAY[crate_job(1), crate_job(2, delay => '1 minute')]);
SELECT pass_time('10 minutes');
SELECT mq_insert(ARRAY[crate_job(3)]);
SELECT results_eq('SELECT ready, scheduled FROM mq_status()', 'VALUES (3::bigint, 0::bigint)', 'a job that is due counts as ready before a poll has seen it');
SELECT ok((SELECT oldest_ready_at BETWEEN clock_timestamp() - interval '11 minutes' AND clock_timestamp() - interval '9 minutes' FROM mq_status()), 'mq_status tells how old the oldest ready job is');
SELECT mq_clear_all();
SELECT mq_insert(ARRAY[crate_job(1), crate_job(2, retries => 0)]);
SELECT mq_poll(NULL, 2);
SELECT pass_time('1 hour');
SELECT results_eq('SELECT ready, running, dead FROM mq_status()', 'VALUES (1::bigint, 0::bigint, 1::bigint)', 'a lease that is over counts for what the next poll makes of it');
SELECT set_eq('SELECT id, state FROM mq_jobs', $$VALUES (job(1), 'ready'), (job(2), 'dead')$$, '… in mq_jobs, too');
SELECT is_empty('SELECT * FROM mq_running_jobs', '… and is not shown as running');

SELECT mq_clear_all();
SELECT mq_insert(ARRAY[crate_job(1, retries => 1)]);
SELECT mq_fail(id, attempt, 'x', '0') FROM mq_poll(NULL);
SELECT mq_fail(id, attempt, 'x', '0') FROM mq_poll(NULL);
SELECT matches((SELECT explanation FROM mq_explain(job(1))), '^Its 2 attempts are used up; ', 'mq_explain counts a dead job''s attempts');
SELECT mq_insert(ARRAY[crate_job(2)]);
SELECT mq_fail(id, attempt, 'no such customer', is_final => true) FROM mq_poll(NULL);
SELECT matches((SELECT explanation FROM mq_explain(job(2))), '^It failed for good at attempt 1; .* The last error: no such customer$', '… and says when it failed for good');

-- Who works
SELECT mq_clear_all();
SET application_name = 'psql';
SELECT is_empty('SELECT * FROM mq_workers', 'where nobody works, mq_workers is empty');
SET application_name = 'sqlxmq box 1';
-- What a transaction has seen of the sessions it sees again, unless told to look anew.
SELECT pg_stat_clear_snapshot();
SELECT results_eq('SELECT * FROM mq_workers', $$VALUES ('box 1', 0::bigint, NULL::timestamptz, 1::bigint)$$, 'an idle runner is seen by its connection');
SELECT mq_insert(ARRAY[crate_job(1), crate_job(2), crate_job(3), crate_job(4)]);
SELECT mq_poll(NULL, 1, '1 hour', 'box 1');
SELECT mq_poll(NULL, 1, '2 hours', 'box 1');
SELECT results_eq('SELECT worker, running, connections FROM mq_workers', $$VALUES ('box 1', 2::bigint, 1::bigint)$$, '… a busy one by that and by its jobs');
SELECT is((SELECT earliest_lease_end FROM mq_workers), (SELECT min(leased_until) FROM mq_running_jobs), '… whose first lease ends then');
SELECT mq_poll(NULL, 1, '1 hour', 'box 2');
SELECT set_eq('SELECT worker, running, connections FROM mq_workers', $$VALUES ('box 1', 2::bigint, 1::bigint), ('box 2', 1, 0)$$, 'one that is gone, or does not say its name, by its jobs alone');
SELECT mq_complete(id, attempt) FROM mq_running_jobs WHERE worker = 'box 2';
SELECT set_eq('SELECT worker FROM mq_workers', $$VALUES ('box 1')$$, '… until it holds none');
SELECT mq_clear_all();
SELECT set_config('application_name', 'sqlxmq ' || repeat('n', 100), false), pg_stat_clear_snapshot();
SELECT results_eq('SELECT worker FROM mq_workers', 'SELECT repeat(''n'', 56)', 'the server cuts long names');
SELECT mq_insert(ARRAY[crate_job(1)]);
SELECT mq_poll(NULL, 1, '1 hour', repeat('n', 100));
SELECT results_eq('SELECT worker, running, connections FROM mq_workers', 'SELECT repeat(''n'', 100), 1::bigint, 1::bigint', '… and they are known by what is left');
SET application_name = 'psql';
SELECT pg_stat_clear_snapshot();
SELECT pass_time('2 hours');
SELECT is_empty('SELECT * FROM mq_workers', 'a lease that is over is nobody''s');

-- Nothing that users poll reads the whole backlog.
SELECT mq_clear_all();
SELECT mq_insert(array_agg(crate_job(n, channel_args => (n % 10)::text))) FROM generate_series(1, 30000) AS n;
SELECT is((SELECT sum(ready) FROM mq_status(NULL, 50)), 500::numeric, 'the summary of a long backlog reads up to the limit of each channel');
SELECT results_eq('SELECT DISTINCT is_exact FROM mq_status(NULL, 50)', 'VALUES (false)', '… and says that it is not exact');
SELECT * FROM finish();
ROLLBACK;
