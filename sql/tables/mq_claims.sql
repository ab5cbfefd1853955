-- One row for the whole batch that a poll took. Completion leaves it alone; when its deadline has
-- passed, a poll removes it and takes back the jobs that are still at the attempt it names. The
-- deadline is never far off: rows whose jobs are done are not to pile up until a long lease is over.
CREATE SEQUENCE mq_claim_number AS bigint;
COMMENT ON SEQUENCE mq_claim_number IS 'Numbers the claims.';

CREATE TABLE mq_claims (
    deadline     timestamptz NOT NULL,
    claim        bigint NOT NULL,
    leased_until timestamptz NOT NULL,
    ids          uuid[] NOT NULL,
    positions    bigint[] NOT NULL,
    attempts     integer[] NOT NULL,
    worker       text,
    PRIMARY KEY (deadline, claim)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
COMMENT ON TABLE mq_claims IS 'Batches of jobs that polls have handed out, until their leases are over.';
COMMENT ON COLUMN mq_claims.deadline IS 'When a poll looks at the claim again: at the end of the leases, or before.';
COMMENT ON COLUMN mq_claims.claim IS 'Number of the claim.';
COMMENT ON COLUMN mq_claims.leased_until IS 'When the leases end, unless keep-alive has pushed them further.';
COMMENT ON COLUMN mq_claims.ids IS 'The jobs.';
COMMENT ON COLUMN mq_claims.positions IS 'Their positions: an id can be sent again once its job is done, a position cannot.';
COMMENT ON COLUMN mq_claims.attempts IS 'The attempt number under which each of the jobs was handed out.';
COMMENT ON COLUMN mq_claims.worker IS 'Who polled: what it said of itself, else its application_name.';
