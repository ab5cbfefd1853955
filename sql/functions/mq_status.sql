-- Purpose: the queue at a glance: how many jobs each channel has in each state, and how old the
--          oldest ready one is. Cheap enough to be polled: it counts no further than count_limit in
--          each channel (for scheduled and dead jobs: than ten times that over all channels).
-- Arguments: channel_names, only these (NULL: all); count_limit, 1 to 1000000.
-- Returns: a row for each channel with jobs: counts; is_exact, whether none of them was cut off at
--          the limit; oldest_ready_at, since when the oldest of the counted ready jobs could run;
--          held_by, the ordered job whose turn it is while others wait behind it.
-- Locks:   none.
-- Errors:  22004, 22023 for bad arguments.
-- Callers: observer, operator.
CREATE FUNCTION mq_status(
    channel_names text[] DEFAULT NULL,
    count_limit   integer DEFAULT 1000
) RETURNS TABLE (
    channel_name    text,
    channel_args    text,
    ready           bigint,
    scheduled       bigint,
    running         bigint,
    blocked         bigint,
    dead            bigint,
    is_exact        boolean,
    oldest_ready_at timestamptz,
    held_by         uuid
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET enable_bitmapscan = off
SET jit = off
AS $$
#variable_conflict use_column
BEGIN
    IF count_limit IS NULL OR count_limit NOT BETWEEN 1 AND 1000000 THEN
        PERFORM mq_refuse(CASE WHEN count_limit IS NULL THEN '22004' ELSE '22023' END,
            'count_limit', count_limit::text, 'it must be between 1 and 1000000');
    ELSIF channel_names IS NOT NULL THEN
        PERFORM mq_check_channel_names(channel_names);
    END IF;
    RETURN QUERY
    WITH RECURSIVE ready_channel AS (
        SELECT epoch, NULL::uuid AS channel, true AS goes_on FROM mq_open_epochs
        UNION ALL
        SELECT ready_channel.epoch, next.channel, next.channel IS NOT NULL
        FROM ready_channel LEFT JOIN LATERAL (
            SELECT ticket.channel FROM mq_ready AS ticket
            WHERE ticket.epoch = ready_channel.epoch
              AND ticket.channel > coalesce(ready_channel.channel, '00000000-0000-0000-0000-000000000000')
            ORDER BY ticket.channel LIMIT 1) AS next ON true
        WHERE ready_channel.goes_on
    ), counted AS (
        SELECT ready_channel.channel, 'ready' AS state, few.jobs, few.example_id,
               few.jobs >= count_limit AS is_cut,
               (SELECT coalesce(job.due_at, job.created_at) FROM mq_msgs AS job WHERE job.id = few.example_id) AS since
        FROM ready_channel CROSS JOIN LATERAL (
            SELECT count(*) AS jobs, (array_agg(ticket.id ORDER BY ticket.position))[1] AS example_id
            FROM (SELECT id, position FROM mq_ready
                  WHERE epoch = ready_channel.epoch AND channel = ready_channel.channel
                  ORDER BY priority, position LIMIT count_limit) AS ticket
        ) AS few
        WHERE ready_channel.channel IS NOT NULL
        UNION ALL
        SELECT head.channel, 'blocked', few.jobs, few.example_id, few.jobs >= count_limit, NULL
        FROM mq_heads AS head CROSS JOIN LATERAL (
            SELECT count(*) AS jobs, (array_agg(ticket.id))[1] AS example_id
            FROM (SELECT id FROM mq_blocked WHERE channel = head.channel
                  ORDER BY position LIMIT count_limit) AS ticket
        ) AS few
        WHERE few.jobs > 0
        UNION ALL
        -- Due by now, though no poll has been there to see it: that is ready, too.
        SELECT job.channel, CASE WHEN job.reserved_until IS NULL AND job.due_at <= clock_timestamp() THEN 'ready' ELSE 'scheduled' END,
               count(*), (array_agg(job.id))[1], sum(count(*)) OVER () >= 10 * count_limit::bigint,
               min(job.due_at) FILTER (WHERE job.due_at <= clock_timestamp())
        FROM (SELECT due_at, id FROM mq_scheduled ORDER BY due_at LIMIT 10 * count_limit::bigint) AS ticket
        JOIN mq_msgs AS job ON job.id = ticket.id AND coalesce(job.reserved_until, job.due_at) = ticket.due_at
        WHERE (job.reserved_until IS NULL OR job.reserved_until > clock_timestamp())
            AND NOT EXISTS (SELECT FROM mq_blocked WHERE channel = job.channel AND position = job.position)
        GROUP BY 1, 2
        UNION ALL
        -- A lease that is over counts for what the next poll will make of it.
        SELECT job.channel,
               CASE WHEN greatest(claim.leased_until, job.leased_until) > clock_timestamp() THEN 'running'
                    WHEN one.attempt < job.attempts_allowed THEN 'ready' ELSE 'dead' END,
               count(*), (array_agg(job.id))[1], false, NULL
        FROM mq_claims AS claim
        CROSS JOIN LATERAL unnest(claim.ids, claim.positions, claim.attempts) AS one (id, position, attempt)
        JOIN mq_msgs AS job ON job.id = one.id AND job.position = one.position AND job.attempts_ended + 1 = one.attempt
        GROUP BY 1, 2
        UNION ALL
        SELECT job.channel, 'dead', count(*), (array_agg(job.id))[1], sum(count(*)) OVER () >= 10 * count_limit::bigint, NULL
        FROM (SELECT died_at, id FROM mq_dead ORDER BY died_at DESC LIMIT 10 * count_limit::bigint) AS ticket
        JOIN mq_msgs AS job ON job.id = ticket.id AND job.died_at = ticket.died_at
        GROUP BY 1
    ), channel AS (
        SELECT counted.channel,
               (array_agg(counted.example_id))[1] AS example_id,
               coalesce(sum(jobs) FILTER (WHERE state = 'ready'), 0)::bigint AS ready,
               coalesce(sum(jobs) FILTER (WHERE state = 'scheduled'), 0)::bigint AS scheduled,
               coalesce(sum(jobs) FILTER (WHERE state = 'running'), 0)::bigint AS running,
               coalesce(sum(jobs) FILTER (WHERE state = 'blocked'), 0)::bigint AS blocked,
               coalesce(sum(jobs) FILTER (WHERE state = 'dead'), 0)::bigint AS dead,
               bool_or(is_cut) AS is_cut,
               min(since) AS since
        FROM counted GROUP BY counted.channel
    )
    SELECT job.channel_name, job.channel_args, channel.ready, channel.scheduled, channel.running,
           channel.blocked, channel.dead,
           NOT channel.is_cut AND (SELECT count(*) FROM counted WHERE state IN ('scheduled', 'dead') AND is_cut) = 0,
           channel.since,
           CASE WHEN channel.blocked > 0 THEN (SELECT head.id FROM mq_heads AS head WHERE head.channel = channel.channel) END
    FROM channel JOIN mq_msgs AS job ON job.id = channel.example_id
    WHERE channel_names IS NULL OR job.channel_name = ANY (channel_names)
    ORDER BY job.channel_name, job.channel_args;
END
$$;
COMMENT ON FUNCTION mq_status IS 'How many jobs each channel has in each state; counts stop at a limit, so that it stays cheap.';
