-- Says what each job's state is now, even where no poll has acted on it yet: a delayed job whose time
-- has come is ready, one whose lease is over is ready or dead, a reservation that is over is not shown.
CREATE VIEW mq_jobs AS
SELECT
    job.id,
    CASE
        WHEN job.died_at IS NOT NULL THEN 'dead'
        WHEN blocked.id IS NOT NULL THEN 'blocked'
        WHEN ready.id IS NOT NULL THEN 'ready'
        WHEN scheduled.id IS NOT NULL THEN
            CASE WHEN job.reserved_until IS NULL AND job.due_at <= clock_timestamp() THEN 'ready' ELSE 'scheduled' END
        WHEN greatest(claim.leased_until, job.leased_until) > clock_timestamp() THEN 'running'
        WHEN job.attempts_ended + 1 < job.attempts_allowed THEN 'ready'
        ELSE 'dead'
    END AS state,
    job.name,
    job.channel_name,
    job.channel_args,
    job.priority,
    job.ordered,
    CASE WHEN job.passes_when_dead THEN 'pass' ELSE 'hold' END AS when_dead,
    job.attempts_ended + CASE WHEN claim.id IS NULL THEN 0 ELSE 1 END AS attempts_made,
    job.attempts_allowed - job.attempts_ended - CASE WHEN claim.id IS NULL THEN 0 ELSE 1 END AS attempts_left,
    job.retry_backoff,
    job.created_at,
    coalesce(job.due_at, job.created_at) AS due_at,
    job.reserved_until,
    CASE WHEN claim.id IS NOT NULL THEN greatest(claim.leased_until, job.leased_until) END AS leased_until,
    claim.worker,
    job.cancel_requested_at,
    job.died_at,
    job.last_error,
    job.position,
    job.payload_json,
    job.payload_bytes,
    job.headers
FROM mq_msgs AS job
LEFT JOIN mq_ready AS ready
    ON ready.epoch = ANY (ARRAY(SELECT epoch FROM mq_open_epochs))
    AND ready.channel = job.channel AND ready.priority = job.priority AND ready.position = job.position
LEFT JOIN mq_blocked AS blocked
    ON blocked.channel = job.channel AND blocked.position = job.position
LEFT JOIN mq_scheduled AS scheduled
    ON scheduled.id = job.id AND scheduled.due_at = coalesce(job.reserved_until, job.due_at)
LEFT JOIN (
    SELECT one.id, one.position, one.attempt, claim.leased_until, claim.worker
    FROM mq_claims AS claim CROSS JOIN LATERAL unnest(claim.ids, claim.positions, claim.attempts) AS one (id, position, attempt)
) AS claim
    ON claim.id = job.id AND claim.position = job.position AND claim.attempt = job.attempts_ended + 1
WHERE job.reserved_until IS NULL OR job.reserved_until > clock_timestamp();
COMMENT ON VIEW mq_jobs IS 'All jobs with their state in words: ready, scheduled, running, blocked or dead.';
