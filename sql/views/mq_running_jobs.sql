-- From the claims, not from the jobs: costs as much as there is running, whatever the backlog.
CREATE VIEW mq_running_jobs AS
SELECT
    job.id,
    job.name,
    job.channel_name,
    job.channel_args,
    claim.worker,
    one.attempt,
    job.attempts_allowed - one.attempt AS attempts_left,
    greatest(claim.leased_until, job.leased_until) AS leased_until,
    job.cancel_requested_at
FROM mq_claims AS claim
CROSS JOIN LATERAL unnest(claim.ids, claim.positions, claim.attempts) AS one (id, position, attempt)
JOIN mq_msgs AS job ON job.id = one.id AND job.position = one.position AND job.attempts_ended + 1 = one.attempt
WHERE greatest(claim.leased_until, job.leased_until) > clock_timestamp();
COMMENT ON VIEW mq_running_jobs IS 'What is running, where, and until when it is leased.';
