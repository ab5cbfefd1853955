\ir setup.include
SELECT plan(44);

SELECT mq_insert(ARRAY[crate_job(1, retries => 2, retry_backoff => '2 seconds')]);
SELECT results_eq('SELECT state, attempts_made, attempts_left FROM mq_jobs', $$VALUES ('ready', 0, 3)$$,
    'a job sent with two retries is ready, with three attempts');
SELECT results_eq('SELECT attempt, attempts_allowed, retry_backoff FROM mq_poll(NULL)',
    $$VALUES (1, 3, interval '2 seconds')$$, 'its first delivery is attempt 1, with the backoff it was sent with');
SELECT results_eq('SELECT state, attempts_made, attempts_left FROM mq_jobs', $$VALUES ('running', 1, 2)$$,
    'a claim takes one of the attempts');
SELECT ok((SELECT leased_until - clock_timestamp() BETWEEN '1 second' AND '2 seconds' FROM mq_jobs),
    'without a lease asked for, the lease is the backoff');
SELECT is_empty('SELECT claim()', 'a running job is not handed out again');

SELECT pass_time('3 seconds');
SELECT is(state_of(job(1)), 'ready', 'a job whose lease is over counts as ready, though no poll has been there');
SELECT results_eq('SELECT attempt, retry_backoff FROM mq_poll(NULL)', $$VALUES (2, interval '4 seconds')$$,
    'the next poll takes it back and hands it out, with the next attempt number and twice the backoff');
SELECT matches((SELECT last_error FROM mq_jobs), '^The lease of attempt 1, held by .*, was over at', 'that the lease ran out is kept as the last error');
SELECT ok((SELECT leased_until - clock_timestamp() BETWEEN '3 seconds' AND '4 seconds' FROM mq_jobs),
    'the lease of the second attempt is the doubled backoff');
SELECT pass_time('5 seconds');
SELECT results_eq('SELECT attempt FROM mq_poll(NULL)', 'VALUES (3)', 'the third attempt is the last');
SELECT pass_time('10 seconds');
SELECT is(state_of(job(1)), 'dead', 'with its attempts used up and the lease over, it is dead');
SELECT is_empty('SELECT claim()', '… and not handed out any more');
SELECT is((SELECT count(*) FROM mq_dead_jobs), 1::bigint, '… but kept among the dead');

SELECT mq_clear_all();
SELECT mq_insert(ARRAY[crate_job(2)]);
SELECT ok((SELECT leased_until - clock_timestamp() BETWEEN '59 seconds' AND '60 seconds' FROM mq_poll(NULL, 1, '60 seconds')),
    'a lease that is longer than the backoff counts');
SELECT pass_time('30 seconds');
SELECT is_empty('SELECT claim()', '… for as long as it was asked for');
SELECT is((SELECT is_held FROM mq_keep_alive(ARRAY[job(2)], '10 seconds', ARRAY[1])), true, 'the holder keeps it alive');
SELECT ok((SELECT leased_until - clock_timestamp() > '29 seconds' FROM mq_jobs), 'keep-alive never shortens a lease');
SELECT mq_keep_alive(ARRAY[job(2)], '100 seconds', ARRAY[1]);
SELECT pass_time('60 seconds');
SELECT is_empty('SELECT claim()', 'a job kept alive is not taken back when its claim''s deadline passes');
SELECT is(state_of(job(2)), 'running', '… it is running still');
SELECT ok((SELECT wait_time BETWEEN '5 seconds' AND '10 seconds' FROM mq_poll(NULL)), '… and polls look at it again every ten seconds');
SELECT pass_time('60 seconds');
SELECT results_eq('SELECT claim()', 'VALUES (2)', '… until that is over, too');

SELECT mq_clear_all();
SELECT mq_insert(ARRAY[crate_job(3, retry_backoff => '1 second'), crate_job(4, retry_backoff => '1 minute')]);
SELECT set_eq('SELECT claim()', 'VALUES (3), (4)', 'jobs with different backoffs are claimed in one batch');
SELECT pass_time('2 seconds');
SELECT results_eq('SELECT claim()', 'VALUES (3)', '… and each has its own lease');

SELECT mq_clear_all();
SELECT mq_insert(ARRAY[crate_job(5, delay => '1 hour'), crate_job(6)]);
SELECT is(state_of(job(5)), 'scheduled', 'a delayed job is scheduled');
SELECT results_eq('SELECT claim()', 'VALUES (6)', '… and does not run before its time');
SELECT mq_complete(job(6), 1);
SELECT pass_time('1 minute');
SELECT ok((SELECT wait_time BETWEEN '58 minutes' AND '59 minutes' FROM mq_poll(NULL)), '… which wait_time tells');
SELECT pass_time('1 hour');
SELECT is(state_of(job(5)), 'ready', '… when its time has come, it is ready');
SELECT results_eq('SELECT claim()', 'VALUES (5)', '… and runs');

SELECT mq_clear_all();
SELECT mq_insert(ARRAY[crate_job(7, retry_backoff => '200 years', retries => 1000)]);
DO $$
BEGIN
    FOR n IN 1..40 LOOP
        PERFORM mq_poll(NULL);
        PERFORM mq_fail(job(7), n, NULL, '0');
    END LOOP;
END
$$;
SELECT is((SELECT retry_backoff FROM mq_jobs), interval '200 years', 'a backoff beyond a year is not doubled, so it never overflows');
SELECT mq_clear_all();
SELECT mq_insert(ARRAY[crate_job(8)]);
SELECT mq_poll(NULL, 1, '1 hour', 'worker 7 on host x');
SELECT results_eq('SELECT id, worker, attempt FROM mq_running_jobs', $$VALUES (job(8), 'worker 7 on host x', 1)$$,
    'what runs is shown with who holds it');
SELECT mq_release(ARRAY[job(8)], ARRAY[1]);
SELECT results_eq('SELECT state, attempts_made, attempts_left FROM mq_jobs', $$VALUES ('ready', 1, 5)$$,
    'a job given back is ready at once, without having lost an attempt');
SELECT results_eq('SELECT attempt, retry_backoff FROM mq_poll(NULL)', $$VALUES (2, interval '1 second')$$,
    '… at the next number, with the backoff it had');
SELECT mq_release(ARRAY[job(8)], ARRAY[2], '1 minute');
SELECT is(state_of(job(8)), 'scheduled', 'a job can be given back for later');
SELECT is_empty($$SELECT mq_release(ARRAY[job(8)], ARRAY[2])$$, 'who does not hold it cannot give it back');

-- An id that is sent again, once its job is done, has nothing to do with what is left of its first life.
SELECT mq_clear_all();
SELECT mq_insert(ARRAY[crate_job(9)]);
SELECT mq_complete(id, attempt) FROM mq_poll(NULL);
SELECT mq_insert(ARRAY[crate_job(9)]);
SELECT pass_time('1 minute');
SELECT results_eq('SELECT id, attempt FROM mq_poll(NULL, 10)', 'VALUES (job(9), 1)', 'an id that is sent again starts anew, whatever is left of its first job''s claim');
SELECT mq_complete(job(9), 1);
SELECT mq_insert(ARRAY[crate_job(9)]);
SELECT mq_poll(NULL, 1, '1 hour');
SELECT pass_time('2 minutes');
SELECT is_empty('SELECT claim()', '… and the end of an old lease does not end the new one');
SELECT is((SELECT count(*) FROM mq_jobs), 1::bigint, '… nor is the job shown twice');
SELECT mq_clear_all();
SELECT mq_insert(ARRAY[crate_job(10)]);
DELETE FROM mq_msgs;
SELECT mq_insert(ARRAY[crate_job(10)]);
SELECT results_eq('SELECT claim()', 'VALUES (10)', 'a ticket that was left by hand does not deliver an id''s second job twice');
SELECT mq_clear_all();
SELECT mq_insert(ARRAY[crate_job(11)]);
DELETE FROM mq_msgs;
SELECT mq_insert(ARRAY[crate_job(11, delay => '1 hour')]);
SELECT is_empty('SELECT claim()', '… nor too early');

-- Claims do not stay for as long as a lease that nobody needs any more.
SELECT mq_clear_all();
SELECT mq_insert(ARRAY[crate_job(12, retry_backoff => '1000 years'), crate_job(13, retry_backoff => '1000 years')]);
SELECT mq_poll(NULL, 2);
SELECT mq_complete(job(12), 1);
SELECT pass_time('1 minute');
SELECT is_empty('SELECT claim()', 'a poll after a while');
SELECT results_eq('SELECT ids FROM mq_claims', 'VALUES (ARRAY[job(13)])', '… keeps of a long claim what is still running');
SELECT mq_complete(job(13), 1);
SELECT pass_time('1 minute');
SELECT is_empty('SELECT claim()', '… and a later one');
SELECT is_empty('SELECT * FROM mq_claims', '… nothing, once all is done');
SELECT set_config('sqlxmq.ring_position', 'nonsense', false);
SELECT lives_ok('SELECT * FROM mq_poll(NULL)', 'a ring position that is none is no error');
SELECT * FROM finish();
ROLLBACK;
