\ir setup.include
SELECT plan(44);

SELECT mq_insert(ARRAY[crate_job(1, retries => 0)]);
SELECT mq_poll(NULL);
SELECT is(mq_fail(job(1), 1, 'cannot work'), 'dead', 'a job that fails its only attempt is dead');
SELECT results_eq('SELECT id, attempts_made, last_error FROM mq_dead_jobs', $$VALUES (job(1), 1, 'cannot work')$$, '… and kept with its error');
SELECT is_empty('SELECT claim()', '… and not handed out');
SELECT throws_ok('SELECT mq_complete(job(1), 2)', 'MQ001', NULL, '… nor completed by anyone');
SELECT pass_time('10 years');
SELECT is_empty('SELECT claim()', 'dead jobs are kept for ever by default');
SELECT is((SELECT count(*) FROM mq_dead_jobs), 1::bigint, '… indeed');
SELECT results_eq('SELECT mq_retry(ARRAY[job(1), job(2)])', 'VALUES (job(1))', 'mq_retry revives those that are dead');
SELECT results_eq('SELECT state, attempts_left FROM mq_jobs', $$VALUES ('ready', 1)$$, '… with one attempt by default');
SELECT results_eq('SELECT attempt FROM mq_poll(NULL)', 'VALUES (2)', '… and attempt numbers that go on');
SELECT mq_fail(job(1), 2, 'still not');
SELECT mq_retry(ARRAY[job(1)], retries => 3, delay => '1 hour');
SELECT results_eq('SELECT state, attempts_left FROM mq_jobs', $$VALUES ('scheduled', 4)$$, 'retries and a delay can be given');
SELECT is_empty('SELECT mq_retry(ARRAY[job(1)])', 'a job that is not dead is passed over');

-- For good
SELECT mq_clear_all();
SELECT mq_insert(ARRAY[crate_job(1)]);
SELECT mq_poll(NULL);
SELECT is(mq_fail(job(1), 1, 'no such customer', '1 hour', is_final => true), 'dead', 'a job that fails for good is dead, whatever attempts are left');
SELECT results_eq('SELECT state, attempts_made, last_error FROM mq_jobs', $$VALUES ('dead', 1, 'no such customer')$$, '… and kept with its error');
SELECT results_eq('SELECT id FROM mq_dead_jobs', 'VALUES (job(1))', '… among the dead');
SELECT is_empty('SELECT claim()', '… and not handed out');
SELECT results_eq('SELECT mq_retry(ARRAY[job(1)], retries => 1)', 'VALUES (job(1))', 'mq_retry revives it');
SELECT results_eq('SELECT attempt, attempts_allowed FROM mq_poll(NULL)', 'VALUES (2, 3)', '… with as many attempts as are given then');
SELECT is(mq_fail(job(1), 2, 'x', '0', is_final => false), 'ready', 'a failure that is not final is not');
SELECT mq_clear_all();
SELECT mq_insert(ARRAY[crate_job(1), crate_job(2), crate_job(3), crate_job(4)]);
SELECT mq_poll(NULL, 4);
SELECT mq_cancel(ARRAY[job(4)]);
SELECT results_eq('SELECT * FROM mq_fail(ARRAY[job(1), job(2), job(3), job(4)], ARRAY[1, 1, 1, 1], NULL, ''{0,0,0,0}'', are_final => ''{t,f,NULL,t}'')',
    $$VALUES (job(1), 'dead'), (job(2), 'ready'), (job(3), 'ready'), (job(4), 'cancelled')$$, 'of many, those that are said to, and none that was cancelled');
SELECT mq_clear_all();
SELECT mq_insert(ARRAY[crate_job(1, ordered => true), crate_job(2, ordered => true)], NULL, ARRAY['pass', 'hold']);
SELECT mq_fail(id, attempt, 'x', is_final => true) FROM mq_poll(NULL);
SELECT results_eq('SELECT claim()', 'VALUES (2)', 'an ordered job that fails for good lets the others pass, if that was said');
SELECT mq_insert(ARRAY[crate_job(3, ordered => true)]);
SELECT mq_fail(job(2), 1, 'x', is_final => true);
SELECT is_empty('SELECT claim()', '… or holds them');
SELECT results_eq('SELECT waits_for FROM mq_explain(job(3))', 'VALUES (job(2))', '… by its own name');
SELECT mq_cancel(ARRAY[job(2)]);
SELECT results_eq('SELECT claim()', 'VALUES (3)', '… until it is removed');

SELECT mq_clear_all();
SELECT mq_configure(dead_retention => '1 day');
SELECT mq_insert(ARRAY[crate_job(3, retries => 0), crate_job(4, retries => 0)]);
SELECT mq_fail(id, attempt, 'x') FROM mq_poll(NULL);
SELECT pass_time('23 hours');
SELECT mq_fail(id, attempt, 'x') FROM mq_poll(NULL);
SELECT pass_time('2 hours');
SELECT is_empty('SELECT claim()', 'with a retention set, an idle poll');
SELECT results_eq('SELECT id FROM mq_dead_jobs', 'VALUES (job(4))', '… forgets the dead that are older');
SELECT pass_time('1 day');
SELECT mq_insert(ARRAY[crate_job(5, retries => 0)]);
SELECT mq_fail(id, attempt, 'x') FROM mq_poll(NULL);
SELECT results_eq('SELECT id FROM mq_dead_jobs', 'VALUES (job(5))', '… and so does a death');
SELECT mq_configure(dead_retention => NULL);
SELECT pass_time('1 year');
SELECT is_empty('SELECT claim()', 'set back to NULL');
SELECT is((SELECT count(*) FROM mq_dead_jobs), 1::bigint, '… the dead are kept again');

SELECT mq_clear_all();
SELECT mq_insert(ARRAY[crate_job(10), crate_job(11), crate_job(12, delay => '1 hour'), crate_job(13, commit_interval => '1 hour'),
                       crate_job(14, ordered => true), crate_job(15, ordered => true)]);
SELECT mq_poll(NULL, 1);
SELECT bag_eq('SELECT * FROM mq_cancel(ARRAY[job(10), job(11), job(11), job(12), job(13), job(15), job(99)])',
    $$VALUES (job(10), 'requested'), (job(11), 'removed'), (job(12), 'removed'), (job(13), 'removed'), (job(15), 'removed')$$,
    'mq_cancel removes what waits, and asks the holder of what runs');
SELECT set_eq('SELECT id, state FROM mq_jobs', $$VALUES (job(10), 'running'), (job(14), 'ready')$$, '… the running job stays until it is let go of');
SELECT is((SELECT count(*) FROM mq_scheduled) + (SELECT count(*) FROM mq_blocked), 0::bigint, '… and no ticket of the others is left');
SELECT results_eq($$SELECT * FROM mq_keep_alive(ARRAY[job(10)], '1 second', ARRAY[1])$$, 'VALUES (job(10), true, true)', 'its holder is told at the next keep-alive');
SELECT is(mq_fail(job(10), 1, 'stopped'), 'cancelled', 'a cancelled job that is given back is removed');
SELECT is(state_of(job(10)), NULL, '… indeed');
SELECT mq_insert(ARRAY[crate_job(16), crate_job(17)]);
SELECT results_eq('SELECT claim()', 'VALUES (14), (16), (17)', 'of the others');
SELECT mq_cancel(ARRAY[job(16), job(17)]);
SELECT lives_ok('SELECT mq_complete(job(16), 1)', '… one may still be completed by its holder');
SELECT pass_time('1 hour');
SELECT results_eq('SELECT claim()', 'VALUES (14)', '… and one whose lease runs out is not handed out again');
SELECT results_eq('SELECT id FROM mq_msgs', 'VALUES (job(14))', '… but removed');
SELECT mq_fail(job(14), 2, 'x');
SELECT results_eq('SELECT * FROM mq_cancel(ARRAY[job(14)])', $$VALUES (job(14), 'removed')$$, 'a job in backoff is removed');
SELECT mq_insert(ARRAY[crate_job(18, retries => 0)]);
SELECT mq_fail(id, attempt, 'x') FROM mq_poll(NULL);
SELECT results_eq('SELECT * FROM mq_cancel(ARRAY[job(18)])', $$VALUES (job(18), 'removed')$$, 'a dead job is removed');
SELECT is((SELECT count(*) FROM mq_dead), 0::bigint, '… with its ticket');

-- A cancel that met the ticket on the move marks the job; the poll that claims it does not hand it out.
SELECT mq_clear_all();
SELECT mq_insert(ARRAY[crate_job(20)]);
UPDATE mq_msgs SET cancel_requested_at = clock_timestamp();
SELECT is_empty('SELECT claim()', 'a job that was cancelled while its ticket moved is not handed out');
SELECT pass_time('1 hour');
SELECT is((SELECT count(*) FROM (SELECT claim()) AS poll, LATERAL (SELECT FROM mq_msgs) AS job), 0::bigint, '… and is removed by a later poll');
SELECT mq_clear_all();
SELECT mq_insert(ARRAY[crate_job(21, retries => 0)]);
SELECT mq_fail(id, attempt, 'x') FROM mq_poll(NULL);
UPDATE mq_msgs SET cancel_requested_at = clock_timestamp();
SELECT mq_retry(ARRAY[job(21)]);
SELECT results_eq('SELECT claim()', 'VALUES (21)', 'a retry takes an earlier wish to cancel back');
SELECT * FROM finish();
ROLLBACK;
