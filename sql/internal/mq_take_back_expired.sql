-- Internal. Looks at claims whose deadline has passed: their jobs that still exist and are still at the
-- attempt of the claim are taken back, or, leased for longer, claimed on. It stops after ten claims, or
-- after the first with which it has looked at two hundred jobs, so that no poll has to do much of it.
-- Arguments: since, nothing earlier is looked for.
-- Locks:   the claims, then the jobs, without waiting: a job whose row somebody has locked or just changed
--          is being completed, failed or kept alive right now, and is looked at again a second later.
CREATE FUNCTION mq_take_back_expired(since timestamptz, this_moment timestamptz) RETURNS void
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
    expired   mq_claims;
    one       record;
    job       mq_msgs;
    again     timestamptz;
    seen      integer := 0;
    ids       uuid[];
    positions bigint[];
    attempts  integer[];
BEGIN
    FOR number IN 1..10 LOOP
        DELETE FROM mq_claims WHERE ctid = (
            SELECT claim.ctid FROM mq_claims AS claim
            WHERE claim.deadline >= since AND claim.deadline <= this_moment
            ORDER BY claim.deadline LIMIT 1 FOR UPDATE SKIP LOCKED)
        RETURNING * INTO expired;
        EXIT WHEN NOT FOUND;
        since := expired.deadline;
        ids := '{}';
        positions := '{}';
        attempts := '{}';
        again := this_moment + interval '10 seconds';
        FOR one IN
            SELECT held.id, held.position, held.attempt, here.leased_until,
                   greatest(here.leased_until, expired.leased_until) AS until
            FROM unnest(expired.ids, expired.positions, expired.attempts) AS held (id, position, attempt)
            CROSS JOIN LATERAL (
                SELECT leased_until FROM mq_msgs
                WHERE id = held.id AND position = held.position AND attempts_ended = held.attempt - 1
                OFFSET 0) AS here
        LOOP
            -- Who is leased for longer needs no lock: should it be completed meanwhile, the next look finds that.
            IF one.until <= this_moment THEN
                -- The job as it was just seen, or not at all.
                SELECT * INTO job FROM mq_msgs
                WHERE id = one.id AND position = one.position AND attempts_ended = one.attempt - 1
                  AND leased_until IS NOT DISTINCT FROM one.leased_until
                FOR UPDATE SKIP LOCKED;
                IF FOUND THEN
                    PERFORM mq_end_attempt(
                        job,
                        format('The lease of attempt %s, held by %s, was over at %s.', one.attempt,
                               coalesce(nullif(expired.worker, ''), 'an unnamed worker'), one.until),
                        interval '0', true, false);
                    CONTINUE;
                END IF;
                one.until := this_moment + interval '1 second';
            END IF;
            ids := ids || one.id;
            positions := positions || one.position;
            attempts := attempts || one.attempt;
            again := least(again, one.until);
        END LOOP;
        IF cardinality(ids) > 0 THEN
            INSERT INTO mq_claims (deadline, claim, leased_until, ids, positions, attempts, worker)
            VALUES (again, nextval('mq_claim_number'), expired.leased_until, ids, positions, attempts, expired.worker);
        END IF;
        seen := seen + cardinality(expired.ids);
        EXIT WHEN seen >= 200;
    END LOOP;
END
$$;
COMMENT ON FUNCTION mq_take_back_expired IS 'Internal. Takes back the jobs whose leases are over.';
