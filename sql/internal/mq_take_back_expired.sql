-- Internal. Takes back the jobs of claims whose deadline has passed: those that still exist, are
-- still at the attempt of the claim, and were not kept alive beyond it.
-- Locks:   the claims, then the jobs, without waiting: a job whose row somebody has locked is being
--          completed, failed or kept alive right now, and stays held for another second.
CREATE FUNCTION mq_take_back_expired(this_moment timestamptz, most_claims integer) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, @extschema@, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET enable_bitmapscan = off
SET jit = off
AS $$
DECLARE
    held  record;
    job   mq_msgs;
    again timestamptz;
BEGIN
    FOR held IN
        WITH expired AS (
            DELETE FROM mq_claims WHERE ctid = ANY (ARRAY(
                SELECT claim.ctid FROM mq_claims AS claim
                WHERE claim.deadline <= this_moment
                ORDER BY claim.deadline LIMIT most_claims FOR UPDATE SKIP LOCKED))
            RETURNING deadline, ids, attempts, worker
        )
        SELECT one.id, one.attempt, expired.deadline, expired.worker
        FROM expired CROSS JOIN LATERAL unnest(expired.ids, expired.attempts) AS one (id, attempt)
        WHERE (SELECT attempts_ended FROM mq_msgs WHERE mq_msgs.id = one.id) = one.attempt - 1
    LOOP
        SELECT * INTO job FROM mq_msgs WHERE id = held.id FOR UPDATE SKIP LOCKED;
        IF NOT FOUND THEN
            again := this_moment + interval '1 second';
        ELSIF job.attempts_ended <> held.attempt - 1 THEN
            CONTINUE;
        ELSIF job.leased_until > this_moment THEN
            again := job.leased_until;
        ELSE
            PERFORM mq_end_attempt(
                job,
                format('The lease of attempt %s, held by %s, was over at %s.', held.attempt,
                       coalesce(nullif(held.worker, ''), 'an unnamed worker'),
                       greatest(job.leased_until, held.deadline)),
                interval '0', true);
            CONTINUE;
        END IF;
        INSERT INTO mq_claims (deadline, claim, ids, attempts, worker)
        VALUES (again, nextval('mq_claim_number'), ARRAY[held.id], ARRAY[held.attempt], held.worker);
    END LOOP;
END
$$;
COMMENT ON FUNCTION mq_take_back_expired IS 'Internal. Takes back the jobs whose leases are over.';
