-- The one place that says what running means: the job has no ticket anywhere. Functions of the
-- worker's side delete and update through this view, by id and attempt; that is the fence.
-- Each look-up is a scalar subquery, not NOT EXISTS: the planner can make no join and no hash table
-- of it, so it stays one index probe whatever the statistics say.
CREATE VIEW mq_held AS
SELECT job.*, job.attempts_ended + 1 AS attempt
FROM mq_msgs AS job
WHERE job.died_at IS NULL
  AND (SELECT true FROM mq_ready AS ticket
       WHERE ticket.epoch = ANY (ARRAY(SELECT epoch FROM mq_open_epochs))
         AND ticket.channel = job.channel
         AND ticket.priority = job.priority
         AND ticket.position = job.position) IS NULL
  AND (coalesce(job.reserved_until, job.due_at) IS NULL
       OR (SELECT true FROM mq_scheduled AS ticket
           WHERE ticket.due_at = coalesce(job.reserved_until, job.due_at)
             AND ticket.id = job.id) IS NULL)
  AND (NOT job.ordered
       OR (SELECT true FROM mq_blocked AS ticket
           WHERE ticket.channel = job.channel
             AND ticket.position = job.position) IS NULL);
COMMENT ON VIEW mq_held IS 'Internal. The jobs that somebody has claimed and not let go of: those without a ticket.';
