CREATE VIEW mq_dead_jobs AS
SELECT
    job.id,
    job.name,
    job.channel_name,
    job.channel_args,
    job.died_at,
    job.attempts_ended AS attempts_made,
    job.last_error,
    job.ordered AND NOT job.passes_when_dead AS holds_channel,
    job.payload_json,
    job.payload_bytes
FROM mq_dead AS ticket
JOIN mq_msgs AS job ON job.id = ticket.id AND job.died_at = ticket.died_at;
COMMENT ON VIEW mq_dead_jobs IS 'The jobs whose attempts are used up, or that failed for good, and why.';
