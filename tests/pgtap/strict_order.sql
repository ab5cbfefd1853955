\ir setup.include
SELECT plan(61);

SELECT mq_insert(ARRAY[crate_job(3, ordered => true), crate_job(1, ordered => true), crate_job(2, ordered => true), crate_job(9)]);
SELECT set_eq('SELECT id, state FROM mq_jobs',
    $$VALUES (job(3), 'ready'), (job(1), 'blocked'), (job(2), 'blocked'), (job(9), 'ready')$$,
    'the first of the ordered jobs is ready, the others are blocked; an unordered one passes');
SELECT results_eq('SELECT claim()', 'VALUES (3), (9)', 'only those two run');
SELECT is_empty('SELECT claim()', '… and nothing else while the head runs');
SELECT mq_complete(job(9), 1);
SELECT is_empty('SELECT claim()', 'an unordered job''s completion moves nobody');
SELECT mq_complete(job(3), 1);
SELECT results_eq('SELECT claim()', 'VALUES (1)', 'ordered jobs run in the order of their sending, not of their ids');
SELECT mq_fail(job(1), 1, 'x', '1 hour');
SELECT is_empty('SELECT claim()', 'a head that waits for its retry holds the others back');
SELECT results_eq('SELECT state, waits_for FROM mq_explain(job(2))', $$VALUES ('blocked', job(1))$$, 'mq_explain names it');
SELECT pass_time('1 hour');
SELECT results_eq('SELECT claim()', 'VALUES (1)', '… its retry is next');
SELECT mq_complete(ARRAY[job(1)], ARRAY[2]);
SELECT results_eq('SELECT claim()', 'VALUES (2)', 'the array form of completion hands on the turn, too');
SELECT mq_complete(job(2), 1);
SELECT is((SELECT count(*) FROM mq_chains), 1::bigint, 'after the last one, the channel waits for a poll to be closed');
SELECT is_empty('SELECT claim()', '… there is nothing to run');
SELECT is((SELECT count(*) FROM mq_chains) + (SELECT count(*) FROM mq_heads) + (SELECT count(*) FROM mq_idle_channels), 0::bigint, '… and nothing left of the channel');
SELECT mq_insert(ARRAY[crate_job(4, ordered => true)]);
SELECT results_eq('SELECT claim()', 'VALUES (4)', 'a channel that was closed opens anew');

-- Sent while the channel is idle but not closed yet.
SELECT mq_complete(job(4), 1);
SELECT mq_insert(ARRAY[crate_job(5, ordered => true)]);
SELECT is(state_of(job(5)), 'blocked', 'a job sent to a channel that no poll has closed yet is blocked for a moment');
SELECT results_eq('SELECT claim()', 'VALUES (5)', '… the next poll runs it');

SELECT mq_clear_all();
SELECT mq_insert(ARRAY[crate_job(1, ordered => true, delay => '1 hour'), crate_job(2, ordered => true)]);
SELECT is_empty('SELECT claim()', 'a delayed head holds the others back');
SELECT pass_time('1 hour');
SELECT results_eq('SELECT claim()', 'VALUES (1)', '… and runs first when it is due');
SELECT mq_complete(job(1), 1);
SELECT results_eq('SELECT claim()', 'VALUES (2)', '… then the others');
SELECT mq_clear_all();
SELECT mq_insert(ARRAY[crate_job(1, ordered => true), crate_job(2, ordered => true, delay => '1 hour'), crate_job(3, ordered => true)]);
SELECT mq_complete(id, attempt) FROM mq_poll(NULL);
SELECT is(state_of(job(2)), 'scheduled', 'a delayed job that gets its turn early is scheduled');
SELECT is_empty('SELECT claim()', '… and holds the others back, too');
SELECT pass_time('1 hour');
SELECT results_eq('SELECT claim()', 'VALUES (2)', '… until its time has come');

SELECT mq_clear_all();
SELECT mq_insert(ARRAY[crate_job(1, ordered => true, commit_interval => '1 hour'), crate_job(2, ordered => true), crate_job(3, ordered => true, commit_interval => '1 minute')]);
SELECT is_empty('SELECT claim()', 'a reservation holds its place in the order');
SELECT mq_commit(ARRAY[job(1)]);
SELECT results_eq('SELECT claim()', 'VALUES (1)', '… and runs first once committed');
SELECT pass_time('2 minutes');
SELECT set_eq('SELECT claim()', 'VALUES (1)', 'the end of a blocked reservation');
SELECT set_eq('SELECT id FROM mq_msgs', 'VALUES (job(1)), (job(2))', '… removes it from the queue');
SELECT is((SELECT count(*) FROM mq_blocked), 1::bigint, '… and from the order');
SELECT mq_clear_all();
SELECT mq_insert(ARRAY[crate_job(1, ordered => true, commit_interval => '1 minute'), crate_job(2, ordered => true)]);
SELECT pass_time('2 minutes');
SELECT results_eq('SELECT claim()', 'VALUES (2)', 'a reservation at the head that is not committed in time lets the others go');
SELECT mq_insert(ARRAY[crate_job(3, ordered => true, commit_interval => '1 minute'), crate_job(4, ordered => true, delay => '1 hour', commit_interval => '1 minute')]);
SELECT mq_commit(ARRAY[job(3), job(4)]);
SELECT set_eq('SELECT id, state FROM mq_jobs', $$VALUES (job(2), 'running'), (job(3), 'blocked'), (job(4), 'blocked')$$, 'a blocked reservation that is committed stays blocked');
SELECT mq_complete(job(2), 1);
SELECT results_eq('SELECT claim()', 'VALUES (3)', '… and runs in its turn');
SELECT mq_complete(job(3), 1);
SELECT is_empty('SELECT claim()', '… and not before it is due');
SELECT pass_time('1 hour');
SELECT results_eq('SELECT claim()', 'VALUES (4)', '… but then');

SELECT mq_clear_all();
SELECT mq_insert(ARRAY[crate_job(1, ordered => true, retries => 0), crate_job(2, ordered => true)]);
SELECT mq_fail(id, attempt, 'boom') FROM mq_poll(NULL);
SELECT is_empty('SELECT claim()', 'a dead head holds the others back, by default');
SELECT results_eq('SELECT holds_channel FROM mq_dead_jobs', 'VALUES (true)', '… as the view of the dead says');
SELECT results_eq('SELECT held_by, blocked, dead FROM mq_status()', 'VALUES (job(1), 1::bigint, 1::bigint)', '… and the status');
SELECT matches((SELECT explanation FROM mq_explain(job(2))), 'job 00000000-0000-0000-0000-000000000001 .* is dead and holds the channel', '… and mq_explain');
SELECT mq_retry(ARRAY[job(1)]);
SELECT results_eq('SELECT claim()', 'VALUES (1)', 'retried, it still comes first');
SELECT mq_fail(job(1), 2, 'boom');
SELECT mq_cancel(ARRAY[job(1)]);
SELECT results_eq('SELECT claim()', 'VALUES (2)', 'removed, it lets the others go');

SELECT mq_clear_all();
SELECT mq_insert(ARRAY[crate_job(1, ordered => true, retries => 0), crate_job(2, ordered => true), crate_job(3, ordered => true)], NULL, ARRAY['pass', 'hold', 'hold']);
SELECT mq_fail(id, attempt, 'boom') FROM mq_poll(NULL);
SELECT results_eq('SELECT claim()', 'VALUES (2)', 'a dead head whose sender chose so lets the others pass');
SELECT mq_retry(ARRAY[job(1)]);
SELECT is_empty('SELECT claim()', 'retried, it waits for the one that runs');
SELECT mq_complete(job(2), 1);
SELECT results_eq('SELECT claim()', 'VALUES (1)', '… and is the next, before those sent after it');

-- A dead job that let the others pass, with nobody behind it: retried or removed before a poll has closed the channel.
SELECT mq_clear_all();
SELECT mq_insert(ARRAY[crate_job(1, ordered => true, retries => 0)], NULL, ARRAY['pass']);
SELECT mq_fail(id, attempt, 'boom') FROM mq_poll(NULL);
SELECT mq_retry(ARRAY[job(1)]);
SELECT results_eq('SELECT claim()', 'VALUES (1)', 'one that passed with nobody behind it runs again when it is retried');
SELECT mq_insert(ARRAY[crate_job(2, ordered => true)]);
SELECT is_empty('SELECT claim()', '… and holds its place while it does');
SELECT mq_complete(job(1), 2);
SELECT results_eq('SELECT claim()', 'VALUES (2)', '… until it is done');
SELECT mq_clear_all();
SELECT mq_insert(ARRAY[crate_job(1, ordered => true, retries => 0)], NULL, ARRAY['pass']);
SELECT mq_fail(id, attempt, 'boom') FROM mq_poll(NULL);
SELECT mq_insert(ARRAY[crate_job(2, ordered => true), crate_job(3, ordered => true)]);
SELECT mq_cancel(ARRAY[job(1)]);
SELECT is(state_of(job(2)), 'blocked', 'one that passed has no turn to give when it is removed');
SELECT results_eq('SELECT claim()', 'VALUES (2)', '… but gave it away when it died, once');
SELECT is_empty('SELECT claim()', '… not twice');

-- The same, but with others sent and the job deleted by hand while it waits for its second turn.
SELECT mq_clear_all();
SELECT mq_insert(ARRAY[crate_job(1, ordered => true, retries => 0)], NULL, ARRAY['pass']);
SELECT mq_fail(id, attempt, 'boom') FROM mq_poll(NULL);
SELECT mq_retry(ARRAY[job(1)]);
SELECT mq_insert(ARRAY[crate_job(2, ordered => true), crate_job(3, ordered => true)]);
DELETE FROM mq_msgs WHERE id = job(1);
SELECT is(state_of(job(2)), 'blocked', 'nor has one that passed, was retried, and is deleted');
SELECT results_eq('SELECT claim()', 'VALUES (2)', '… the next poll gives it');
SELECT is((SELECT count(*) FROM mq_blocked), 1::bigint, '… and takes its ticket along');
SELECT is((SELECT looks_back FROM mq_chains), true, 'where one was retried, the next is looked for from the beginning');
SELECT mq_complete(job(2), 1);
SELECT mq_complete(id, attempt) FROM mq_poll(NULL);
SELECT is_empty('SELECT claim()', '… until all are done');
SELECT is_empty('SELECT FROM mq_chains', '… and the channel is closed');

-- One statement finishes the heads of many channels, whatever waits behind them.
SELECT mq_clear_all();
SELECT mq_insert(
    array_agg(crate_job(n, ordered => true, channel_args => n::text)) || crate_job(9, ordered => false)
    || crate_job(11, ordered => true, channel_args => '1')
    || crate_job(12, ordered => true, channel_args => '2', delay => '1 hour')
    || crate_job(13, ordered => true, channel_args => '3', commit_interval => '1 hour') || crate_job(23, ordered => true, channel_args => '3')
    || crate_job(14, ordered => true, channel_args => '4') || crate_job(24, ordered => true, channel_args => '4')
    || crate_job(15, ordered => true, channel_args => '5', commit_interval => '1 hour') || crate_job(25, ordered => true, channel_args => '5')
    || crate_job(16, ordered => true, channel_args => '6') || crate_job(26, ordered => true, channel_args => '6')
    || crate_job(17, ordered => true, channel_args => '7') || crate_job(27, ordered => true, channel_args => '7'))
FROM (VALUES (1), (2), (3), (4), (5), (6), (7), (8), (10)) AS channel (n);
SELECT set_eq('SELECT claim()', 'SELECT generate_series(1, 10)', 'the heads run');
UPDATE mq_msgs SET reserved_until = clock_timestamp() - interval '1 second' WHERE id = job(15);
-- As if somebody had asked for it when its ticket moved.
UPDATE mq_msgs SET cancel_requested_at = clock_timestamp() WHERE id = job(16);
DELETE FROM mq_msgs WHERE id IN (SELECT job(n) FROM generate_series(1, 6) AS n) OR id IN (job(9), job(10), job(14), job(17));
SELECT set_eq('SELECT ltrim(replace(id::text, $$-$$, $$$$), $$0$$)::integer, state FROM mq_jobs', $$
    VALUES (11, 'ready'), (12, 'scheduled'), (13, 'scheduled'), (23, 'blocked'), (24, 'ready'), (25, 'ready'),
           (26, 'ready'), (7, 'running'), (27, 'blocked'), (8, 'running')$$,
    '… and when they leave at once, each channel goes on by itself');
SELECT results_eq('SELECT count(*), count(DISTINCT channel) FROM mq_heads', 'VALUES (9::bigint, 9::bigint)', '… each with one head');
SELECT mq_complete(ARRAY[job(7), job(8)], ARRAY[1, 1]);
SELECT set_eq('SELECT claim()', 'VALUES (11), (24), (25), (26), (27)', '… and is claimed from');

SELECT mq_clear_all();
SELECT mq_insert(ARRAY[crate_job(1, ordered => true), crate_job(2, ordered => true), crate_job(3, ordered => true)]);
DELETE FROM mq_msgs WHERE id = job(2);
DELETE FROM mq_msgs WHERE id = job(1);
SELECT results_eq('SELECT claim()', 'VALUES (3)', 'a channel goes on when its jobs are deleted by hand');
SELECT mq_delete(ARRAY[job(3)]);
SELECT is_empty('SELECT claim()', '… or by mq_delete');
SELECT mq_insert(ARRAY[crate_job(n, ordered => true, channel_args => (n % 3)::text)]) FROM generate_series(10, 18) AS n;
SELECT set_eq('SELECT claim()', 'VALUES (10), (11), (12)', 'the order is that of name and arguments together');
SELECT mq_clear(ARRAY['']);
SELECT is((SELECT count(*) FROM mq_msgs) + (SELECT count(*) FROM mq_chains) + (SELECT count(*) FROM mq_blocked) + (SELECT count(*) FROM mq_heads) + (SELECT count(*) FROM mq_idle_channels), 0::bigint,
    'clearing a channel leaves nothing of its order');
SELECT mq_insert(ARRAY[crate_job(20, ordered => true), crate_job(21, ordered => true)], ARRAY[5, -5]);
SELECT results_eq('SELECT claim()', 'VALUES (20)', 'ordered jobs ignore priority');
SELECT * FROM finish();
ROLLBACK;
