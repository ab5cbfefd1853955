-- A job's row is written when it is sent and deleted when it is done. Claiming does not touch it:
-- what changes in between is the job's ticket (tables/tickets.sql). No column that changes is
-- indexed, so a failed attempt, a check-point or a keep-alive is an in-place (HOT) update; the
-- fill factor leaves room for it.
CREATE SEQUENCE mq_position AS bigint;
COMMENT ON SEQUENCE mq_position IS 'The order in which jobs were sent.';

CREATE TABLE mq_msgs (
    id                  uuid PRIMARY KEY,
    channel             uuid NOT NULL,
    position            bigint NOT NULL,
    created_at          timestamptz NOT NULL,
    due_at              timestamptz,
    reserved_until      timestamptz,
    leased_until        timestamptz,
    died_at             timestamptz,
    cancel_requested_at timestamptz,
    retry_backoff       interval NOT NULL,
    attempts_ended      integer NOT NULL DEFAULT 0,
    attempts_allowed    integer NOT NULL,
    priority            smallint NOT NULL,
    ordered             boolean NOT NULL,
    passes_when_dead    boolean NOT NULL,
    channel_name        text NOT NULL,
    channel_args        text NOT NULL,
    name                text NOT NULL,
    payload_json        json,
    payload_bytes       bytea,
    last_error          text,
    headers             json
) WITH (
    fillfactor = 90,
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_vacuum_cost_delay = 0
);

COMMENT ON TABLE mq_msgs IS 'The jobs that are not done yet: one row each, deleted when the job is complete.';
COMMENT ON COLUMN mq_msgs.id IS 'The job''s id, given by the sender.';
COMMENT ON COLUMN mq_msgs.channel IS 'Key of the channel: mq_channel_key(channel_name, channel_args).';
COMMENT ON COLUMN mq_msgs.position IS 'Place in the order of sending, over all channels.';
COMMENT ON COLUMN mq_msgs.created_at IS 'When the job was sent.';
COMMENT ON COLUMN mq_msgs.due_at IS 'When the job becomes due, if it was delayed or is to be retried later; NULL: at once.';
COMMENT ON COLUMN mq_msgs.reserved_until IS 'A reservation (two-phase commit) ends then; NULL: the job is committed.';
COMMENT ON COLUMN mq_msgs.leased_until IS 'How far keep-alive has pushed the lease of the current attempt; NULL: the claim''s deadline counts.';
COMMENT ON COLUMN mq_msgs.died_at IS 'When the last attempt was used up, or an attempt failed for good; NULL: the job is not dead.';
COMMENT ON COLUMN mq_msgs.cancel_requested_at IS 'When mq_cancel met the job running: it is removed as soon as its holder lets go of it.';
COMMENT ON COLUMN mq_msgs.retry_backoff IS 'Least lease of the next attempt, and wait after its failure; doubles with every attempt.';
COMMENT ON COLUMN mq_msgs.attempts_ended IS 'Attempts that ended without completion. The attempt under way, or the next, is this number plus one.';
COMMENT ON COLUMN mq_msgs.attempts_allowed IS 'How many attempts the job may have in all.';
COMMENT ON COLUMN mq_msgs.priority IS 'Smaller first, within the channel; 0 for ordered jobs, which ignore it.';
COMMENT ON COLUMN mq_msgs.ordered IS 'Whether the job runs in strict order with the other ordered jobs of its channel.';
COMMENT ON COLUMN mq_msgs.passes_when_dead IS 'An ordered job that is dead lets the ones behind it pass, instead of holding them.';
COMMENT ON COLUMN mq_msgs.channel_name IS 'Name of the channel: what workers subscribe to.';
COMMENT ON COLUMN mq_msgs.channel_args IS 'Arguments of the channel: with the name, the unit of order and of fairness.';
COMMENT ON COLUMN mq_msgs.name IS 'Name of the job: what the worker is to run.';
COMMENT ON COLUMN mq_msgs.payload_json IS 'The JSON payload, as it was sent.';
COMMENT ON COLUMN mq_msgs.payload_bytes IS 'The binary payload.';
COMMENT ON COLUMN mq_msgs.last_error IS 'Why the latest attempt that ended did not complete the job.';
COMMENT ON COLUMN mq_msgs.headers IS 'What travels beside the payload, a JSON object of strings: the sender''s trace, for example, as W3C names it, so that the worker can go on with it.';
