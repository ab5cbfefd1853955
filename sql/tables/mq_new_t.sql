CREATE TYPE mq_new_t AS (
    id              uuid,
    delay           interval,
    retries         integer,
    retry_backoff   interval,
    channel_name    text,
    channel_args    text,
    commit_interval interval,
    ordered         boolean,
    name            text,
    payload_json    text,
    payload_bytes   bytea
);
COMMENT ON TYPE mq_new_t IS 'A job to send with mq_insert: the wire format of the sqlxmq crate.';
COMMENT ON COLUMN mq_new_t.id IS 'The job''s id.';
COMMENT ON COLUMN mq_new_t.delay IS 'How long the job waits before it is due.';
COMMENT ON COLUMN mq_new_t.retries IS 'Attempts after the first.';
COMMENT ON COLUMN mq_new_t.retry_backoff IS 'Least lease of the first attempt; doubles at every claim.';
COMMENT ON COLUMN mq_new_t.channel_name IS 'Name of the channel.';
COMMENT ON COLUMN mq_new_t.channel_args IS 'Arguments of the channel.';
COMMENT ON COLUMN mq_new_t.commit_interval IS 'NULL, or: only reserve the job, until mq_commit or until delay plus this has passed.';
COMMENT ON COLUMN mq_new_t.ordered IS 'Whether the job runs in strict order with the other ordered jobs of its channel.';
COMMENT ON COLUMN mq_new_t.name IS 'Name of the job.';
COMMENT ON COLUMN mq_new_t.payload_json IS 'JSON payload.';
COMMENT ON COLUMN mq_new_t.payload_bytes IS 'Binary payload.';
