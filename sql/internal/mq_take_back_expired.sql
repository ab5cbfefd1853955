-- Internal. Looks at claims whose deadline has passed: their jobs that still exist and are still at the
-- attempt of the claim are taken back, or, leased for longer, claimed on. It stops after ten claims, or
-- after the first with which it has looked at two hundred jobs, so that no poll has to do much of it.
-- Arguments: since, nothing earlier is looked for.
-- Locks:   the claims, then the jobs, without waiting: a job whose row somebody has locked is being
--          completed, failed or kept alive right now, and stays held for another second.
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
    expired        mq_claims;
    one            record;
    job            mq_msgs;
    again          timestamptz;
    seen           integer := 0;
    ids            uuid[];
    positions      bigint[];
    attempts       integer[];
    over_ids       uuid[];
    over_positions bigint[];
    over_attempts  integer[];
BEGIN
    FOR number IN 1..10 LOOP
        DELETE FROM mq_claims WHERE ctid = (
            SELECT claim.ctid FROM mq_claims AS claim
            WHERE claim.deadline >= since AND claim.deadline <= this_moment
            ORDER BY claim.deadline LIMIT 1 FOR UPDATE SKIP LOCKED)
        RETURNING * INTO expired;
        EXIT WHEN NOT FOUND;
        since := expired.deadline;
        -- Who is leased for longer needs no lock: should it be completed meanwhile, the next look finds that.
        SELECT coalesce(array_agg(held.id) FILTER (WHERE until > this_moment), '{}'),
               coalesce(array_agg(held.position) FILTER (WHERE until > this_moment), '{}'),
               coalesce(array_agg(held.attempt) FILTER (WHERE until > this_moment), '{}'),
               least(min(until) FILTER (WHERE until > this_moment), this_moment + interval '10 seconds'),
               array_agg(held.id) FILTER (WHERE until <= this_moment),
               array_agg(held.position) FILTER (WHERE until <= this_moment),
               array_agg(held.attempt) FILTER (WHERE until <= this_moment)
        INTO ids, positions, attempts, again, over_ids, over_positions, over_attempts
        FROM unnest(expired.ids, expired.positions, expired.attempts) AS held (id, position, attempt)
        CROSS JOIN LATERAL (
            SELECT greatest(here.leased_until, expired.leased_until) FROM mq_msgs AS here
            WHERE here.id = held.id AND here.position = held.position AND here.attempts_ended = held.attempt - 1
            OFFSET 0) AS lease (until);
        FOR one IN
            SELECT held.id, held.position, held.attempt
            FROM unnest(over_ids, over_positions, over_attempts) AS held (id, position, attempt)
        LOOP
            SELECT * INTO job FROM mq_msgs WHERE id = one.id AND position = one.position FOR UPDATE SKIP LOCKED;
            IF NOT FOUND THEN
                again := least(again, this_moment + interval '1 second');
            ELSIF job.attempts_ended <> one.attempt - 1 THEN
                CONTINUE;
            ELSIF greatest(job.leased_until, expired.leased_until) > this_moment THEN
                again := least(again, greatest(job.leased_until, expired.leased_until));
            ELSE
                PERFORM mq_end_attempt(
                    job,
                    format('The lease of attempt %s, held by %s, was over at %s.', one.attempt,
                           coalesce(nullif(expired.worker, ''), 'an unnamed worker'),
                           greatest(job.leased_until, expired.leased_until)),
                    interval '0', true, false);
                CONTINUE;
            END IF;
            ids := ids || one.id;
            positions := positions || one.position;
            attempts := attempts || one.attempt;
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
