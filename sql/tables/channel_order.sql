-- Senders of ordered jobs queue on their channel's row in mq_chains until they commit, so that
-- positions are given out in commit order. Whoever finishes the head never waits for a sender: it
-- touches mq_heads only, and when it sees nobody behind the head it leaves the channel to the next
-- poll, by a row in mq_idle_channels; a sender may be about to commit behind it.
CREATE TABLE mq_chains (
    channel    uuid PRIMARY KEY,
    looks_back boolean NOT NULL DEFAULT false
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
COMMENT ON TABLE mq_chains IS 'Channels with ordered jobs; senders of ordered jobs lock the row until they commit.';
COMMENT ON COLUMN mq_chains.channel IS 'The channel.';
COMMENT ON COLUMN mq_chains.looks_back IS 'Whether a job that had let others pass was given another try: the next one may lie before the one that is finished.';

-- There is one row a channel. The key holds the job, too, since whoever finishes it looks for both: the
-- channel's dead rows, which may not be cleaned away while an old snapshot is held, are not met then.
CREATE TABLE mq_heads (
    channel uuid NOT NULL,
    id      uuid NOT NULL,
    PRIMARY KEY (channel, id)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
COMMENT ON TABLE mq_heads IS 'The ordered job whose turn it is, for each channel with ordered jobs.';
COMMENT ON COLUMN mq_heads.channel IS 'The channel.';
COMMENT ON COLUMN mq_heads.id IS 'The job whose turn it is.';

CREATE TABLE mq_idle_channels (
    channel uuid PRIMARY KEY
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
COMMENT ON TABLE mq_idle_channels IS 'Channels whose head was finished with nobody seen behind it; the next poll settles them.';
COMMENT ON COLUMN mq_idle_channels.channel IS 'The channel.';
