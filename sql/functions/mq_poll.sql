-- Purpose: claim jobs that can run now; each is held by the caller until its lease is over.
-- Arguments: channel_names, whose jobs to claim (NULL: all); batch_size, how many at most (1 to
--          10000); lease, the least time for which to hold them (NULL: each job's backoff decides);
--          worker, a name to show who holds them (NULL: the session's application_name);
--          notify_me, when NOTIFY is to announce new jobs to this session: 'always'; 'asleep', only after
--          a poll of this session that found nothing, until one that finds some, which spares senders
--          most of it (poll again after the wait_time, in a session that lasts); 'never'.
-- Returns: a row for each claimed job, smallest priority first; attempt is the fence to pass to
--          mq_complete, mq_fail and the others; is_committed is always true (reservations are not handed
--          out); wait_time is 0 (with notify_me 'asleep', where fewer than asked for were to be had: how
--          soon to poll again, since nobody notifies before that poll has found nothing). With nothing to
--          claim, one row of NULLs whose wait_time says how long until something may be due (NULL: nothing
--          is scheduled).
-- Fairness: channels (name and arguments) take turns. The session goes round them from where its
--          last poll left off (the setting sqlxmq.ring_position), and takes an equal share of each.
-- Locks:   the claimed jobs' tickets, never waiting for another poll.
-- Errors:  22023 or 22004 for a bad argument.
-- Callers: worker, operator.
CREATE FUNCTION mq_poll(
    channel_names text[],
    batch_size    integer DEFAULT 1,
    lease         interval DEFAULT NULL,
    worker        text DEFAULT NULL,
    notify_me     text DEFAULT 'always'
) RETURNS TABLE (
    id               uuid,
    is_committed     boolean,
    name             text,
    payload_json     text,
    payload_bytes    bytea,
    retry_backoff    interval,
    wait_time        interval,
    attempt          integer,
    attempts_allowed integer,
    channel_name     text,
    channel_args     text,
    leased_until     timestamptz,
    headers          text
)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET enable_bitmapscan = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    looked_at       CONSTANT pg_snapshot := pg_current_snapshot();
    this_moment     CONSTANT timestamptz := clock_timestamp();
    this_time       CONSTANT bigint := (extract(epoch FROM this_moment) * 1000000)::bigint;
    first_key       CONSTANT uuid := '00000000-0000-0000-0000-000000000000'::uuid;
    last_key        CONSTANT uuid := 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid;
    -- In this order, here and below: the first may follow the current one at any time, and must not be later.
    first_epoch     integer := coalesce(pg_sequence_last_value('mq_first_epoch'), 1)::integer;
    current_epoch   integer := coalesce(pg_sequence_last_value('mq_epoch'), 1)::integer;
    scheduled_mark  CONSTANT bigint := coalesce(pg_sequence_last_value('mq_scheduled_mark'), 0);
    claims_mark     CONSTANT bigint := coalesce(pg_sequence_last_value('mq_claims_mark'), 0);
    epochs          integer[];
    this_epoch      integer;
    trusts_marks    boolean := true;
    stepped_over    bigint;
    next_due        timestamptz;
    next_deadline   timestamptz;
    any_idle        boolean;
    any_late        boolean;
    ring_position   uuid;
    arcs_after      uuid[];
    arcs_upto       uuid[];
    still_wanted    integer := batch_size;
    channels_seen   bigint;
    last_channel    uuid;
    claimed_ids     uuid[];
    claimed_places  bigint[];
    met_others      boolean := false;
    released        integer := 0;
    most_released   CONSTANT integer := greatest(100, 4 * least(batch_size, 250));
    claimed_count   integer;
BEGIN
    IF batch_size IS NULL OR batch_size NOT BETWEEN 1 AND 10000 THEN
        PERFORM mq_refuse(CASE WHEN batch_size IS NULL THEN '22004' ELSE '22023' END,
            'batch_size', batch_size::text, 'it must be between 1 and 10000');
    ELSIF lease < interval '0' OR lease > interval '1000 years' THEN
        PERFORM mq_refuse('22023', 'lease', lease::text, 'it must be NULL or between 0 and 1000 years');
    ELSIF notify_me IS NULL OR notify_me NOT IN ('always', 'asleep', 'never') THEN
        PERFORM mq_refuse(CASE WHEN notify_me IS NULL THEN '22004' ELSE '22023' END,
            'notify_me', quote_literal(notify_me), 'it must be ''always'', ''asleep'' or ''never''');
    END IF;
    IF channel_names IS NOT NULL THEN
        PERFORM mq_check_channel_names(channel_names);
    END IF;
    -- Anybody can set it to anything: then begin somewhere.
    ring_position := CASE
        WHEN current_setting('sqlxmq.ring_position', true) ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
            THEN current_setting('sqlxmq.ring_position', true)::uuid
        ELSE gen_random_uuid()
    END;

    IF first_epoch > current_epoch THEN
        -- Data alone were restored into a queue that had been in use.
        PERFORM setval('mq_first_epoch', 1);
        first_epoch := 1;
    END IF;
    -- Housekeeping: one probe each when there is none to do. The marks say from where on to look, and are
    -- distrusted now and then.
    IF scheduled_mark > 0 OR claims_mark > 0 THEN
        trusts_marks := this_time < coalesce(pg_sequence_last_value('mq_look_again_at'), 0);
    END IF;
    stepped_over := -pg_stat_get_xact_tuples_returned('mq_scheduled_pkey'::regclass)
                    -pg_stat_get_xact_tuples_returned('mq_claims_pkey'::regclass);
    SELECT (SELECT due_at FROM mq_scheduled
            WHERE due_at >= to_timestamp(CASE WHEN trusts_marks THEN scheduled_mark / 1e6 ELSE 0 END) ORDER BY due_at LIMIT 1),
           (SELECT deadline FROM mq_claims
            WHERE deadline >= to_timestamp(CASE WHEN trusts_marks THEN claims_mark / 1e6 ELSE 0 END) ORDER BY deadline LIMIT 1),
           (SELECT true FROM mq_idle_channels ORDER BY channel LIMIT 1),
           (SELECT true FROM mq_late_epochs ORDER BY epoch LIMIT 1)
    INTO next_due, next_deadline, any_idle, any_late;
    stepped_over := stepped_over
                    + pg_stat_get_xact_tuples_returned('mq_scheduled_pkey'::regclass)
                    + pg_stat_get_xact_tuples_returned('mq_claims_pkey'::regclass);
    IF (first_epoch < current_epoch OR any_late)
        AND this_time >= coalesce(pg_sequence_last_value('mq_tend_again_at'), 0) THEN
        PERFORM mq_tend_epochs();
        first_epoch := coalesce(pg_sequence_last_value('mq_first_epoch'), 1)::integer;
        current_epoch := coalesce(pg_sequence_last_value('mq_epoch'), 1)::integer;
    END IF;
    IF stepped_over > 100 OR NOT trusts_marks THEN
        PERFORM mq_set_marks(this_moment, next_due, next_deadline, stepped_over > 100, NOT trusts_marks);
    END IF;
    IF next_deadline <= this_moment THEN
        PERFORM mq_take_back_expired(next_deadline, this_moment);
    END IF;
    IF next_due <= this_moment THEN
        released := mq_release_due(next_due, this_moment, most_released);
    END IF;
    IF any_idle THEN
        PERFORM mq_settle_idle_channels();
    END IF;

    -- Several epochs take turns, the oldest one every other time; what it does not give the others may.
    IF first_epoch = current_epoch THEN
        epochs := ARRAY[current_epoch];
    ELSE
        this_epoch := first_epoch + CASE WHEN random() < 0.5 THEN 0 ELSE floor(random() * (current_epoch - first_epoch + 1))::integer END;
        epochs := ARRAY(SELECT one FROM generate_series(first_epoch, current_epoch) AS one ORDER BY one <> this_epoch, one);
    END IF;
    FOREACH this_epoch IN ARRAY epochs LOOP
        -- Each round walks the ring from its position, one probe a channel. A second round is needed only
        -- when shares were left unused by some channels and others have more, or when other polls were
        -- just taking what this one met. Twenty rounds bound the work of one poll.
        FOR round IN 1..20 LOOP
            -- The parts of the ring to walk: after … up to, in turn.
            IF channel_names IS NULL THEN
                arcs_after := ARRAY[ring_position, first_key];
                arcs_upto := ARRAY[last_key, ring_position];
            ELSE
                SELECT array_agg(part.after ORDER BY part.turn, part.after),
                       array_agg(part.upto ORDER BY part.turn, part.after)
                INTO arcs_after, arcs_upto
                FROM (SELECT DISTINCT
                          overlay(arc::text PLACING '0000-000000000000' FROM 20)::uuid AS lowest,
                          overlay(arc::text PLACING 'ffff-ffffffffffff' FROM 20)::uuid AS highest
                      FROM unnest(channel_names) AS wanted (channel_name),
                           mq_channel_key(wanted.channel_name, '') AS arc) AS arcs
                CROSS JOIN LATERAL (VALUES
                    (1, greatest(lowest, ring_position), highest),
                    (2, lowest, least(highest, ring_position))
                ) AS part (turn, after, upto)
                WHERE part.after < part.upto;
            END IF;

            stepped_over := -pg_stat_get_xact_tuples_returned('mq_ready_pkey'::regclass);
            WITH RECURSIVE walk AS (
                SELECT 1 AS arc, arcs_after[1] AS channel, NULL::smallint AS priority, NULL::bigint AS position
                UNION ALL
                SELECT CASE WHEN met.channel IS NULL THEN walk.arc + 1 ELSE walk.arc END,
                       coalesce(met.channel, arcs_after[walk.arc + 1]),
                       met.priority, met.position
                FROM walk LEFT JOIN LATERAL (
                    SELECT ticket.channel, ticket.priority, ticket.position FROM mq_ready AS ticket
                    WHERE ticket.epoch = this_epoch
                      AND ticket.channel > walk.channel AND ticket.channel <= arcs_upto[walk.arc]
                    ORDER BY ticket.channel, ticket.priority, ticket.position LIMIT 1) AS met ON true
                WHERE walk.channel IS NOT NULL
            ), seen AS MATERIALIZED (
                SELECT walk.channel, walk.priority, walk.position FROM walk
                WHERE walk.position IS NOT NULL LIMIT still_wanted
            ), taken AS (
                DELETE FROM mq_ready WHERE ctid = ANY (ARRAY(
                    SELECT mine.ctid FROM seen CROSS JOIN LATERAL (
                        -- From the one that the walk has met: what lies before it is dead.
                        SELECT ticket.ctid FROM mq_ready AS ticket
                        WHERE ticket.epoch = this_epoch AND ticket.channel = seen.channel
                          AND (ticket.priority, ticket.position) >= (seen.priority, seen.position)
                        ORDER BY ticket.priority, ticket.position
                        LIMIT (SELECT ceil(still_wanted::float8 / count(*)) FROM seen)
                        FOR UPDATE SKIP LOCKED) AS mine
                    LIMIT still_wanted))
                RETURNING id, priority, position
            )
            SELECT array_agg(id ORDER BY priority, position),
                   array_agg(position ORDER BY priority, position),
                   (SELECT count(*) FROM seen),
                   (SELECT (array_agg(seen.channel))[count(*)] FROM seen)
            INTO claimed_ids, claimed_places, channels_seen, last_channel
            FROM taken;
            -- Each job that is taken should cost a few steps, not dozens. Steps in an old epoch are no reason
            -- for a new one: no more comes there, and each epoch that is open makes completion slower.
            stepped_over := stepped_over + pg_stat_get_xact_tuples_returned('mq_ready_pkey'::regclass);
            IF this_epoch = current_epoch AND stepped_over > 200 + 8 * still_wanted THEN
                PERFORM mq_begin_epoch(this_time);
            END IF;
            IF channels_seen = 0 AND this_epoch < current_epoch AND channel_names IS NULL THEN
                -- Nothing seems to be left there.
                PERFORM setval('mq_tend_again_at', 0);
            END IF;
            EXIT WHEN channels_seen = 0;
            ring_position := last_channel;
            met_others := met_others OR claimed_ids IS NULL;

            claimed_count := 0;
            IF claimed_ids IS NOT NULL THEN
                RETURN QUERY
                WITH job AS MATERIALIZED (
                    SELECT job.id, job.position, job.name, job.payload_json, job.payload_bytes, job.retry_backoff,
                           job.attempts_ended + 1 AS attempt, job.attempts_allowed, job.channel_name,
                           job.channel_args, job.headers, job.cancel_requested_at,
                           this_moment + greatest(job.retry_backoff, lease) AS deadline, n
                    FROM unnest(claimed_ids, claimed_places) WITH ORDINALITY AS mine (id, position, n)
                    JOIN mq_msgs AS job ON job.id = mine.id AND job.position = mine.position
                ), claim AS (
                    INSERT INTO mq_claims (deadline, claim, leased_until, ids, positions, attempts, worker)
                    SELECT least(job.deadline, this_moment + interval '10 seconds'), nextval('mq_claim_number'),
                           job.deadline, array_agg(job.id), array_agg(job.position), array_agg(job.attempt),
                           coalesce(worker, current_setting('application_name'))
                    FROM job GROUP BY job.deadline
                )
                -- A job that was cancelled while its ticket moved is not handed out; when its claim is
                -- over, it is removed.
                SELECT job.id, true, job.name, job.payload_json::text, job.payload_bytes, job.retry_backoff,
                       CASE WHEN notify_me = 'asleep' AND (SELECT count(*) FROM job) < still_wanted
                           THEN interval '5 milliseconds' ELSE interval '0' END,
                       job.attempt, job.attempts_allowed, job.channel_name, job.channel_args,
                       job.deadline, job.headers::text
                FROM job WHERE job.cancel_requested_at IS NULL
                ORDER BY n;
                GET DIAGNOSTICS claimed_count = ROW_COUNT;
                still_wanted := still_wanted - claimed_count;
            END IF;
            -- Done, or the ring was gone round and no channel gave its whole share.
            EXIT WHEN still_wanted <= 0
                OR channels_seen < still_wanted + claimed_count
                   AND coalesce(cardinality(claimed_ids), 0) < ceil((still_wanted + claimed_count)::float8 / channels_seen);
        END LOOP;
        EXIT WHEN still_wanted <= 0;
    END LOOP;
    PERFORM set_config('sqlxmq.ring_position', ring_position::text, false);

    IF still_wanted < batch_size THEN
        IF current_setting('sqlxmq.asleep', true) <> '' THEN
            PERFORM mq_wake_up();
        END IF;
        RETURN;
    END IF;

    PERFORM mq_forget_dead(100);
    SELECT least((SELECT due_at FROM mq_scheduled WHERE due_at >= to_timestamp(scheduled_mark / 1e6) ORDER BY due_at LIMIT 1),
                 (SELECT deadline FROM mq_claims WHERE deadline >= to_timestamp(claims_mark / 1e6) ORDER BY deadline LIMIT 1),
                 (SELECT this_moment + interval '1 second' FROM mq_idle_channels ORDER BY channel LIMIT 1),
                 -- What somebody commits late, before a mark or in an old epoch, is only found by looking.
                 CASE WHEN any_late OR scheduled_mark > 0 OR claims_mark > 0 THEN this_moment + interval '1 second' END)
    INTO next_due;
    IF next_due IS NOT NULL THEN
        wait_time := CASE
            WHEN next_due > this_moment OR released = most_released
                THEN greatest(next_due - clock_timestamp(), interval '1 millisecond')
            -- What is overdue is in somebody else's hands, perhaps for long.
            ELSE interval '0.5 seconds'
        END;
    END IF;
    IF met_others THEN
        -- Other polls were just taking what was ready; should they not commit, it still is.
        wait_time := least(wait_time, interval '0.1 seconds');
    END IF;
    IF notify_me = 'asleep' THEN
        wait_time := least(wait_time, mq_fall_asleep(channel_names, looked_at));
    ELSIF notify_me = 'always' THEN
        wait_time := least(wait_time, mq_notify_until(this_moment + coalesce(wait_time, interval '1 minute'), looked_at));
    END IF;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION mq_poll IS 'Claims jobs that can run now, in fair turns over the channels.';
