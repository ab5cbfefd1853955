\ir setup.include
SELECT plan(18);
SELECT set_config('sqlxmq.ring_position', '', false);

-- Ten thousand jobs of one channel, then one each of nine others.
SELECT mq_insert(array_agg(crate_job(n, channel_args => 'busy'))) FROM generate_series(1, 10000) AS n;
SELECT mq_insert(ARRAY[crate_job(20000 + n, channel_args => 'quiet ' || n)]) FROM generate_series(1, 9) AS n;
CREATE TEMP TABLE claimed AS SELECT claim() AS number;
SELECT is((SELECT count(*) FROM claimed), 100::bigint, 'a batch is filled as long as there are jobs');
SELECT is((SELECT count(*) FROM claimed WHERE number > 20000), 9::bigint, '… and has the jobs of every other channel, however long one is');
SELECT is((SELECT array_agg(number ORDER BY number) FROM claimed WHERE number < 20000), ARRAY(SELECT generate_series(1, 91)), '… and the oldest of the long one');

SELECT mq_clear_all();
SELECT mq_insert(ARRAY[crate_job(n, channel_args => (n % 10)::text)]) FROM generate_series(1, 100) AS n;
CREATE TEMP TABLE turns AS SELECT turn, (SELECT number FROM claim(NULL, 1 + 0 * turn) AS number) % 10 AS channel FROM generate_series(1, 100) AS turn;
SELECT results_eq('SELECT DISTINCT count(DISTINCT channel) FROM turns GROUP BY (turn - 1) / 10', 'VALUES (10::bigint)',
    'polls for single jobs go round the channels: ten polls, ten channels, in each of ten rounds');
SELECT mq_clear_all();
SELECT mq_insert(ARRAY[crate_job(n, channel_args => (n % 10)::text)]) FROM generate_series(1, 100) AS n;
TRUNCATE turns;
INSERT INTO turns SELECT turn, number % 10 FROM generate_series(1, 20) AS turn, LATERAL (SELECT claim(NULL, 5 + 0 * turn) AS number) AS poll;
SELECT results_eq('SELECT DISTINCT count(DISTINCT channel) FROM turns GROUP BY (turn - 1) / 2', 'VALUES (10::bigint)', 'polls for five: two polls, ten channels');

-- Equal shares; what some channels do not use goes to the others.
SELECT mq_clear_all();
SELECT mq_insert(ARRAY[crate_job(n, channel_args => (n % 4)::text)]) FROM generate_series(1, 400) AS n;
SELECT results_eq('SELECT count(*) FROM claim() AS number GROUP BY number % 4', 'VALUES (25::bigint), (25), (25), (25)', 'four channels share a batch equally');
SELECT mq_clear_all();
SELECT mq_insert(ARRAY[crate_job(n, channel_args => least(n, 3)::text)]) FROM generate_series(1, 400) AS n;
SELECT is((SELECT count(*) FROM claim()), 100::bigint, 'shares that are not used are filled by the channels that have more');

-- Filters.
SELECT mq_clear_all();
SELECT mq_insert(ARRAY[crate_job(n, channel_name => 'name ' || n % 5, channel_args => (n % 7)::text)]) FROM generate_series(1, 350) AS n;
SELECT set_eq($$SELECT DISTINCT number % 5 FROM claim('{name 1,name 3,name 9}') AS number$$, 'VALUES (1), (3)', 'a poll for names claims jobs of those names only');
SELECT is((SELECT count(*) FROM claim('{name 1,name 3,name 9}', 1000)), 40::bigint, '… all of them, over all arguments');
SELECT is_empty($$SELECT claim('{name 9}')$$, '… nothing for a name without jobs');
SELECT is_empty($$SELECT claim('{}')$$, '… nor for no name at all');
SELECT is_empty($$SELECT claim('{name}')$$, '… and the beginning of a name is not the name');
SELECT is((SELECT count(DISTINCT number % 7) FROM generate_series(1, 7) AS turn, LATERAL claim('{name 2}', 1 + 0 * turn) AS number), 7::bigint,
    'the channels of one name take turns, too');
SELECT is((SELECT count(*) FROM claim('{name 2,name 2}', 1000)), 63::bigint, 'a name that is given twice counts once');
SELECT is((SELECT count(*) FROM claim(NULL, 1000)), 140::bigint, 'a poll for all gets what is left');

-- Priority, within a channel.
SELECT mq_clear_all();
SELECT mq_insert(ARRAY[crate_job(1), crate_job(2), crate_job(3), crate_job(4), crate_job(5)], ARRAY[0, 5, -5, 32767, -32768]);
SELECT results_eq('SELECT claim(NULL, 2)', 'VALUES (5), (3)', 'smaller priorities come first');
SELECT results_eq('SELECT claim()', 'VALUES (1), (2), (4)', '… and a batch is returned in that order');
SELECT mq_clear_all();
SELECT mq_insert(ARRAY[crate_job(n)]) FROM generate_series(1, 20) AS n;
SELECT results_eq('SELECT claim()', 'SELECT generate_series(1, 20)', 'jobs of equal priority come in the order of their sending');
SELECT * FROM finish();
ROLLBACK;
