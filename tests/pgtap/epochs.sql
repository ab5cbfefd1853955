\ir setup.include
SELECT plan(41);

-- Sequences outlast a rollback: what others have left of epochs is passed over, here and at the end.
SELECT setval('mq_first_epoch', coalesce(pg_sequence_last_value('mq_epoch'), 1)) AS first_epoch,
       coalesce(pg_sequence_last_value('mq_epoch_began_at'), 0) AS began_at \gset

-- A new epoch, in which this transaction issues tickets, as one that begins only now.
CREATE FUNCTION turn() RETURNS integer LANGUAGE plpgsql AS $$
BEGIN
    PERFORM mq_begin_epoch(coalesce(pg_sequence_last_value('mq_epoch_began_at'), 0) + 1000000);
    PERFORM set_config('sqlxmq.epoch', '', true);
    RETURN pg_sequence_last_value('mq_epoch')::integer;
END
$$;

-- Jobs 1 and 2, 3 and 4, 5 and 6, each pair in an epoch of its own; the first one is a late one.
CREATE FUNCTION three_epochs() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM mq_clear_all();
    PERFORM setval('mq_first_epoch', coalesce(pg_sequence_last_value('mq_epoch'), 1));
    DELETE FROM mq_late_epochs;
    FOR pair IN 0..2 LOOP
        PERFORM turn();
        PERFORM mq_insert(ARRAY[crate_job(2 * pair + 1, retries => 0), crate_job(2 * pair + 2, retries => 0)]);
    END LOOP;
    INSERT INTO mq_late_epochs SELECT min(epoch) FROM mq_ready;
    PERFORM setval('mq_first_epoch', (SELECT min(epoch) + 1 FROM mq_ready));
END
$$;

-- From now on polls look at all three.
CREATE FUNCTION none_is_late() RETURNS void LANGUAGE sql AS $$
    DELETE FROM mq_late_epochs;
    SELECT FROM setval('mq_first_epoch', (SELECT min(epoch) FROM mq_ready));
$$;

-- Claims six jobs, one by one.
CREATE FUNCTION claim_each(channel_names text[] DEFAULT NULL) RETURNS SETOF integer LANGUAGE plpgsql AS $$
BEGIN
    FOR number IN 1..6 LOOP
        RETURN QUERY SELECT claim(channel_names, 1);
    END LOOP;
END
$$;

-- Turns
SELECT turn() AS epoch \gset
SELECT mq_begin_epoch(pg_sequence_last_value('mq_epoch_began_at') + 19999);
SELECT is(pg_sequence_last_value('mq_epoch'), :epoch::bigint, 'no epoch begins within a fiftieth of a second of another');
SELECT is(turn(), :epoch + 1, '… later, the next one does');
SELECT turn() FROM generate_series(1, 30);
SELECT is(pg_sequence_last_value('mq_epoch') - :first_epoch, 15::bigint, '… until there are sixteen');
SELECT is((SELECT count(*) FROM mq_open_epochs), 16::bigint, '… in all of which tickets are looked for');
SELECT mq_poll(NULL);
SELECT is(coalesce(pg_sequence_last_value('mq_first_epoch'), 1), :first_epoch::bigint, 'a poll whose transaction has written something finishes none of them');

-- What lets polls begin one: entries of tickets that are gone, here because this transaction has not ended.
CREATE FUNCTION leave_entries(tickets integer) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('sqlxmq.epoch', '', true);
    PERFORM mq_enqueue('x') FROM generate_series(1, tickets);
    FOR number IN 1..tickets / 100 LOOP
        PERFORM mq_poll(NULL, 100);
    END LOOP;
END
$$;
SELECT mq_clear_all();
SELECT setval('mq_first_epoch', pg_sequence_last_value('mq_epoch'));
SELECT leave_entries(500);
SELECT turn() AS epoch \gset
SELECT setval('mq_epoch_began_at', 0);
SELECT mq_poll(NULL);
SELECT is(pg_sequence_last_value('mq_epoch'), :epoch::bigint, 'a poll that steps over many in an old epoch begins none');
SELECT turn() AS epoch \gset
SELECT leave_entries(500);
SELECT setval('mq_epoch_began_at', 0);
SELECT mq_poll(NULL);
SELECT is(pg_sequence_last_value('mq_epoch'), :epoch + 1::bigint, '… one that does so in the current one begins the next');

-- Where a transaction issues its tickets
SELECT three_epochs();
SELECT is((SELECT count(DISTINCT epoch) FROM mq_ready), 3::bigint, 'each pair of jobs has its tickets in an epoch of its own');
SELECT mq_join_epoch() AS joined \gset
SELECT mq_begin_epoch(pg_sequence_last_value('mq_epoch_began_at') + 1000000);
SELECT isnt(pg_sequence_last_value('mq_epoch'), :joined::bigint, 'an epoch that begins while a transaction issues tickets …');
SELECT is(mq_join_epoch(), :joined, '… is not that transaction''s');
SELECT mq_insert(ARRAY[crate_job(7)]);
SELECT is((SELECT epoch FROM mq_ready WHERE id = job(7)), :joined, '… which goes on where it was');
SAVEPOINT before;
SELECT set_config('sqlxmq.epoch', '', true);
SELECT is(mq_join_epoch(), pg_sequence_last_value('mq_epoch')::integer, 'one that joins now joins the newest');
ROLLBACK TO before;
SELECT is(mq_join_epoch(), :joined, '… and if that is undone, it is as before');
SELECT ok(EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND mode = 'ShareLock'
                  AND classid = 'mq_epoch'::regclass AND objid = :joined), 'it holds its epoch by a lock');
SELECT is_empty($$
    SELECT v FROM unnest(ARRAY['x', '-1', ' ', '1.5', '1e1', '999999999', '99999999999999999999', 'NULL', '{1}']) AS v
    WHERE set_config('sqlxmq.epoch', v, true) <> '' AND mq_join_epoch() <> pg_sequence_last_value('mq_epoch')$$,
    'what is no number of an epoch is not taken for one');

-- What polls claim
SELECT three_epochs();
SELECT none_is_late();
SELECT set_eq('SELECT claim()', 'VALUES (1), (2), (3), (4), (5), (6)', 'a poll gets jobs of all epochs');
SELECT is_empty('SELECT claim()', '… once');
SELECT is((SELECT count(*) FROM mq_held), 6::bigint, '… and they are held');
SELECT three_epochs();
SELECT none_is_late();
SELECT claim(NULL, 4);
SELECT is((SELECT count(*) FROM mq_ready), 2::bigint, 'a poll for fewer gets as many as it asked for');
SELECT three_epochs();
SELECT none_is_late();
SELECT set_eq($$SELECT claim_each('{"", none}')$$, 'VALUES (1), (2), (3), (4), (5), (6)',
    'one by one, of named channels, they are all claimed, too');
SELECT mq_clear_all();
SELECT turn();
SELECT mq_insert(ARRAY[crate_job(1), crate_job(2), crate_job(3)], ARRAY[5, -5, 0]);
SELECT turn();
SELECT mq_insert(ARRAY[crate_job(4), crate_job(5), crate_job(6)], ARRAY[7, -7, 0]);
CREATE TEMPORARY TABLE claimed AS SELECT job, n FROM claim_each() WITH ORDINALITY AS one (job, n);
SELECT results_eq('SELECT job FROM claimed WHERE job <= 3 ORDER BY n', 'VALUES (2), (3), (1)', 'within an epoch, the smallest priority comes first');
SELECT results_eq('SELECT job FROM claimed WHERE job > 3 ORDER BY n', 'VALUES (5), (6), (4)', '… in the other one as well');

-- What others see of tickets in late and in old epochs
SELECT three_epochs();
SELECT is_empty('SELECT FROM mq_held', 'a job with a ticket in a late or an old epoch is not held');
SELECT set_eq('SELECT id, state FROM mq_jobs', $$SELECT job(n), 'ready' FROM generate_series(1, 6) AS n$$, '… it is ready, says mq_jobs');
SELECT results_eq('SELECT ready, running FROM mq_status()', 'VALUES (6::bigint, 0::bigint)', '… says mq_status');
SELECT set_eq('SELECT n, state FROM generate_series(1, 6) AS n, mq_explain(job(n))', $$SELECT n, 'ready' FROM generate_series(1, 6) AS n$$, '… says mq_explain');
SELECT is_empty('SELECT * FROM mq_keep_alive(ARRAY[job(1), job(3), job(5)], ''1 minute'', ARRAY[1, 1, 1]) WHERE is_held', 'nobody can keep it alive');
SELECT is_empty('SELECT * FROM mq_complete(ARRAY[job(1), job(3), job(5)], ARRAY[1, 1, 1])', '… complete it');
SELECT throws_ok($$SELECT mq_complete(job(1), 1)$$, 'MQ001', NULL, '… alone');
SELECT is_empty('SELECT * FROM mq_fail(ARRAY[job(1), job(3), job(5)], ARRAY[1, 1, 1], ARRAY[''x'', ''x'', ''x''])', '… fail it');
SELECT is_empty('SELECT * FROM mq_release(ARRAY[job(1), job(3), job(5)], ARRAY[1, 1, 1])', '… or give it back');
SELECT set_eq('SELECT * FROM mq_cancel(ARRAY[job(1), job(3), job(5)])',
    $$VALUES (job(1), 'removed'), (job(3), 'removed'), (job(5), 'removed')$$, 'cancelled, it is removed');
SELECT set_eq('SELECT id FROM mq_ready', 'VALUES (job(2)), (job(4)), (job(6))', '… with its ticket');
SELECT mq_delete(ARRAY[job(2), job(4)]);
SELECT set_eq('SELECT id FROM mq_ready', 'VALUES (job(6))', 'mq_delete takes the tickets with the jobs');
SELECT three_epochs();
SELECT mq_clear('{""}');
SELECT is((SELECT count(*) FROM mq_ready) + (SELECT count(*) FROM mq_msgs), 0::bigint, '… so does mq_clear');
SELECT three_epochs();
SELECT mq_clear_all();
SELECT is((SELECT count(*) FROM mq_ready) + (SELECT count(*) FROM mq_msgs), 0::bigint, '… and mq_clear_all');

-- Held jobs whose tickets lay in several epochs
SELECT three_epochs();
SELECT none_is_late();
SELECT claim();
SELECT set_eq('SELECT msg_id FROM mq_keep_alive(ARRAY[job(1), job(3), job(5)], ''1 minute'', ARRAY[1, 1, 1]) WHERE is_held',
    'VALUES (job(1)), (job(3)), (job(5))', 'what was claimed from several epochs is kept alive');
SELECT mq_complete(job(1), 1);
SELECT set_eq('SELECT * FROM mq_complete(ARRAY[job(3)], ARRAY[1])', 'VALUES (job(3))', '… completed');
SELECT mq_fail(job(5), 1, 'x', '0');
SELECT turn();
SELECT mq_retry(ARRAY[job(5)]);
SELECT is((SELECT epoch FROM mq_ready WHERE id = job(5)), pg_sequence_last_value('mq_epoch')::integer, '… or fails, and is retried in the current one');

-- Carried over
SELECT three_epochs();
SELECT is(mq_carry_over((SELECT epoch FROM mq_late_epochs), 1), 1, 'tickets of a late epoch are carried over, as many as asked for');
SELECT none_is_late();
SELECT is((SELECT count(*) FROM mq_ready WHERE epoch = pg_sequence_last_value('mq_epoch')), 3::bigint, '… to the current one');

SELECT setval('mq_first_epoch', pg_sequence_last_value('mq_epoch'));
SELECT setval('mq_epoch_began_at', :began_at);
SELECT setval('mq_tend_again_at', 0);
SELECT * FROM finish();
ROLLBACK;
