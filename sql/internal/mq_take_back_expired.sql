-- Internal. Looks at the claims whose deadline has passed: their jobs that still exist and are still
-- at the attempt of the claim are taken back, or, leased for longer, claimed on.
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
            RETURNING leased_until, ids, positions, attempts, worker
        )
        SELECT one.id, one.position, one.attempt, expired.leased_until, expired.worker
        FROM expired
        CROSS JOIN LATERAL unnest(expired.ids, expired.positions, expired.attempts) AS one (id, position, attempt)
        WHERE (SELECT attempts_ended FROM mq_msgs
               WHERE mq_msgs.id = one.id AND mq_msgs.position = one.position) = one.attempt - 1
    LOOP
        SELECT * INTO job FROM mq_msgs WHERE id = held.id AND position = held.position FOR UPDATE SKIP LOCKED;
        IF NOT FOUND THEN
            again := this_moment + interval '1 second';
        ELSIF job.attempts_ended <> held.attempt - 1 THEN
            CONTINUE;
        ELSIF greatest(job.leased_until, held.leased_until) > this_moment THEN
            again := least(greatest(job.leased_until, held.leased_until), this_moment + interval '10 seconds');
        ELSE
            PERFORM mq_end_attempt(
                job,
                format('The lease of attempt %s, held by %s, was over at %s.', held.attempt,
                       coalesce(nullif(held.worker, ''), 'an unnamed worker'),
                       greatest(job.leased_until, held.leased_until)),
                interval '0', true, false);
            CONTINUE;
        END IF;
        INSERT INTO mq_claims (deadline, claim, leased_until, ids, positions, attempts, worker)
        VALUES (again, nextval('mq_claim_number'), held.leased_until,
                ARRAY[held.id], ARRAY[held.position], ARRAY[held.attempt], held.worker);
    END LOOP;
END
$$;
COMMENT ON FUNCTION mq_take_back_expired IS 'Internal. Takes back the jobs whose leases are over.';
