-- A job is where its ticket lies. Moving a job means moving its ticket; a job without any ticket is
-- running. A ticket whose job is gone (somebody deleted the row by hand) is dropped when it is met.
CREATE TABLE mq_ready (
    channel  uuid NOT NULL,
    priority smallint NOT NULL,
    position bigint NOT NULL,
    id       uuid NOT NULL,
    epoch    integer NOT NULL DEFAULT 1,
    PRIMARY KEY (epoch, channel, priority, position)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
COMMENT ON TABLE mq_ready IS 'Tickets of the jobs that can be claimed now. Its key, read as a ring of channels, is what polls walk.';
COMMENT ON COLUMN mq_ready.epoch IS 'The epoch in which the ticket was issued (mq_epoch), or into which it was carried over.';
COMMENT ON COLUMN mq_ready.channel IS 'The job''s channel.';
COMMENT ON COLUMN mq_ready.priority IS 'The job''s priority.';
COMMENT ON COLUMN mq_ready.position IS 'The job''s position.';
COMMENT ON COLUMN mq_ready.id IS 'The job.';

CREATE TABLE mq_scheduled (
    due_at timestamptz NOT NULL,
    id     uuid NOT NULL,
    PRIMARY KEY (due_at, id)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
COMMENT ON TABLE mq_scheduled IS 'Tickets of the jobs that wait for a time: delayed, backing off, or reserved.';
COMMENT ON COLUMN mq_scheduled.due_at IS 'The end of the job''s reservation while it is reserved, else the time at which it becomes due.';
COMMENT ON COLUMN mq_scheduled.id IS 'The job.';

CREATE TABLE mq_blocked (
    channel  uuid NOT NULL,
    position bigint NOT NULL,
    id       uuid NOT NULL,
    PRIMARY KEY (channel, position)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
COMMENT ON TABLE mq_blocked IS 'Tickets of the ordered jobs that wait behind an earlier one.';
COMMENT ON COLUMN mq_blocked.channel IS 'The job''s channel.';
COMMENT ON COLUMN mq_blocked.position IS 'The job''s position.';
COMMENT ON COLUMN mq_blocked.id IS 'The job.';

CREATE TABLE mq_dead (
    died_at timestamptz NOT NULL,
    id      uuid NOT NULL,
    PRIMARY KEY (died_at, id)
);
COMMENT ON TABLE mq_dead IS 'Tickets of the jobs whose attempts are used up, or that failed for good.';
COMMENT ON COLUMN mq_dead.died_at IS 'When the job died.';
COMMENT ON COLUMN mq_dead.id IS 'The job.';
