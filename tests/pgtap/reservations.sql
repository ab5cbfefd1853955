\ir setup.include
SELECT plan(25);

SELECT mq_insert(ARRAY[crate_job(1, commit_interval => '10 seconds')]);
SELECT results_eq('SELECT state, reserved_until IS NOT NULL FROM mq_jobs', $$VALUES ('scheduled', true)$$, 'a reservation is scheduled');
SELECT is_empty('SELECT claim()', '… and invisible to workers');
SELECT ok((SELECT wait_time BETWEEN '9 seconds' AND '10 seconds' FROM mq_poll(NULL)), '… and wait_time is the time until it ends');
SELECT pass_time('9 seconds');
SELECT results_eq('SELECT mq_commit(ARRAY[job(1), job(2)])', 'VALUES (job(1))', 'in time, it is committed');
SELECT is_empty('SELECT mq_commit(ARRAY[job(1)])', '… once');
SELECT is(state_of(job(1)), 'ready', '… and ready at once');
SELECT results_eq('SELECT claim()', 'VALUES (1)', '… and runs');
SELECT pass_time('2 seconds');
SELECT results_eq('SELECT claim()', 'VALUES (1)', '… as any other job, retries included');

SELECT mq_clear_all();
SELECT mq_insert(ARRAY[crate_job(2, commit_interval => '10 seconds'), crate_job(3, delay => '1 minute', commit_interval => '10 seconds')]);
SELECT pass_time('11 seconds');
SELECT is(state_of(job(2)), NULL, 'a reservation not committed in time is not shown any more');
SELECT is_empty('SELECT mq_commit(ARRAY[job(2)])', '… cannot be committed');
SELECT is_empty('SELECT claim()', '… is never handed out');
SELECT is_empty('SELECT id FROM mq_msgs WHERE id = job(2)', '… and is removed by the next poll, whoever polls');
SELECT is(state_of(job(3)), 'scheduled', 'as with the crate, the delay comes on top of the commit interval');
SELECT mq_commit(ARRAY[job(3)]);
SELECT ok((SELECT due_at BETWEEN clock_timestamp() + '48 seconds' AND clock_timestamp() + '49 seconds' FROM mq_jobs WHERE id = job(3)),
    'a committed job is due when it would have been without the reservation');
SELECT is_empty('SELECT claim()', '… not before');
SELECT pass_time('49 seconds');
SELECT results_eq('SELECT claim()', 'VALUES (3)', '… and then it runs');

SELECT mq_clear_all();
SELECT mq_insert(ARRAY[crate_job(4, commit_interval => '10 seconds')]);
SELECT results_eq($$SELECT * FROM mq_keep_alive(ARRAY[job(4)], '1 minute')$$, 'VALUES (job(4), true, false)', 'a reservation can be kept open');
SELECT pass_time('30 seconds');
SELECT is_empty('SELECT claim()', '… a poll after its first end');
SELECT is(state_of(job(4)), 'scheduled', '… leaves it');
SELECT mq_keep_alive(ARRAY[job(4)], '1 second');
SELECT ok((SELECT reserved_until > clock_timestamp() + '29 seconds' FROM mq_jobs), '… keep-alive does not shorten it');
SELECT pass_time('31 seconds');
SELECT is_empty($$SELECT FROM mq_poll(NULL) WHERE id IS NOT NULL$$, 'a poll after its last end');
SELECT is_empty('SELECT id FROM mq_msgs', '… removes it');

-- A ticket that a keep-alive or a commit could not move, since a poll had it: it counts for nothing.
SELECT mq_insert(ARRAY[crate_job(5)]);
INSERT INTO mq_scheduled VALUES (clock_timestamp() - interval '1 second', job(5)), (clock_timestamp() - interval '1 second', job(6));
SELECT results_eq('SELECT claim()', 'VALUES (5)', 'a ticket that is left over makes no job run twice');
SELECT is_empty('SELECT claim()', '… nor one that is gone');
SELECT is((SELECT count(*) FROM mq_scheduled), 0::bigint, '… and is dropped');
SELECT * FROM finish();
ROLLBACK;
