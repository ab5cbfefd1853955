-- What the specifications share; run once in the database that they are played in.
CREATE EXTENSION sqlxmq;

-- Everything that was handed out, and every effect that was written with a completion.
CREATE TABLE delivery (id uuid, attempt integer, worker text);
CREATE TABLE effect (id uuid, attempt integer, number serial);
-- What was answered to a session, and in which order sessions sent.
CREATE TABLE answer (number serial, id uuid, outcome text, is_held boolean);

CREATE FUNCTION job(number integer) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
    SELECT lpad(number::text, 32, '0')::uuid
$$;

CREATE FUNCTION start_anew() RETURNS void LANGUAGE sql AS $$
    SELECT mq_clear_all();
    DELETE FROM delivery;
    DELETE FROM effect;
    DELETE FROM answer;
$$;

CREATE FUNCTION send(number integer, is_ordered boolean DEFAULT false, reserve_for interval DEFAULT NULL, channel_args text DEFAULT '')
RETURNS void LANGUAGE sql AS $$
    SELECT FROM mq_enqueue('x', id => job(number), ordered => is_ordered, commit_interval => reserve_for, channel_args => channel_args,
                           retry_backoff => '1 hour')
$$;

CREATE FUNCTION poll(who text, batch_size integer DEFAULT 1) RETURNS void LANGUAGE sql AS $$
    INSERT INTO delivery SELECT id, attempt, who FROM mq_poll(NULL, batch_size) WHERE id IS NOT NULL
$$;

-- Effect and completion, in whatever transaction the caller has.
CREATE FUNCTION work(number integer, attempt integer) RETURNS void LANGUAGE sql AS $$
    INSERT INTO effect VALUES (job(number), attempt);
    SELECT mq_complete(job(number), attempt);
$$;

CREATE FUNCTION leases_run_out() RETURNS void LANGUAGE sql AS $$
    UPDATE mq_claims SET deadline = deadline - interval '2 hours', leased_until = leased_until - interval '2 hours';
$$;

CREATE FUNCTION reservations_run_out() RETURNS void LANGUAGE sql AS $$
    UPDATE mq_scheduled SET due_at = due_at - interval '2 hours'
    WHERE id IN (SELECT id FROM mq_msgs WHERE reserved_until IS NOT NULL);
    UPDATE mq_msgs SET reserved_until = reserved_until - interval '2 hours';
$$;

CREATE FUNCTION must_be(holds boolean, promise text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF holds IS NOT TRUE THEN
        RAISE EXCEPTION 'BROKEN PROMISE: %', promise;
    END IF;
END
$$;

-- After all sessions have ended: works off what is left, and sees that nothing is held, lost or doubled.
CREATE FUNCTION finish(sent integer[], order_matters boolean DEFAULT false) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    one record;
    round integer := 0;
BEGIN
    PERFORM leases_run_out();
    WHILE EXISTS (SELECT FROM mq_msgs) AND round < 50 LOOP
        round := round + 1;
        FOR one IN SELECT * FROM mq_poll(NULL, 10) WHERE id IS NOT NULL LOOP
            INSERT INTO delivery VALUES (one.id, one.attempt, 'finish');
            INSERT INTO effect VALUES (one.id, one.attempt);
            PERFORM mq_complete(one.id, one.attempt);
        END LOOP;
    END LOOP;
    PERFORM FROM mq_poll(NULL);
    PERFORM must_be(NOT EXISTS (SELECT FROM mq_msgs), 'every job runs in the end');
    PERFORM must_be(NOT EXISTS (SELECT FROM delivery GROUP BY id, attempt HAVING count(*) > 1), 'no attempt is handed out twice');
    PERFORM must_be(NOT EXISTS (SELECT FROM effect GROUP BY id HAVING count(*) > 1), 'no job has its effect twice');
    PERFORM must_be((SELECT array_agg(id ORDER BY id) FROM effect) IS NOT DISTINCT FROM (SELECT array_agg(job(n) ORDER BY n) FROM unnest(sent) AS n),
                    'every job has its effect');
    PERFORM must_be(NOT EXISTS (SELECT FROM mq_ready) AND NOT EXISTS (SELECT FROM mq_blocked) AND NOT EXISTS (SELECT FROM mq_chains)
                    AND NOT EXISTS (SELECT FROM mq_heads) AND NOT EXISTS (SELECT FROM mq_idle_channels), 'nothing is left behind');
END
$$;
