-- Internal. An attempt has ended without completion: by failure, by the end of its lease, or given
-- back. The caller holds the job's row locked and knows that the attempt is under way.
-- Arguments: retry_in, how long to wait before the next attempt (0: none); is_counted, whether the
--          attempt is used up. Either way its number is not given out again: it is the fence.
--          is_final, whether the job is dead whatever attempts are left.
-- Returns: where the job went: 'ready', 'scheduled', 'dead', or 'cancelled' (removed).
CREATE FUNCTION mq_end_attempt(job mq_msgs, error text, retry_in interval, is_counted boolean, is_final boolean) RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    this_moment CONSTANT timestamptz := clock_timestamp();
BEGIN
    IF job.cancel_requested_at IS NOT NULL THEN
        DELETE FROM mq_msgs WHERE id = job.id;
        RETURN 'cancelled';
    END IF;
    UPDATE mq_msgs SET
        attempts_ended = attempts_ended + 1,
        attempts_allowed = attempts_allowed + CASE WHEN is_counted THEN 0 ELSE 1 END,
        retry_backoff = CASE
            -- Doubling stops at a year, so that no interval overflows.
            WHEN NOT is_counted OR retry_backoff > interval '1 year' THEN retry_backoff
            ELSE retry_backoff * 2
        END,
        leased_until = NULL,
        last_error = coalesce(left(error, 10000), last_error),
        died_at = CASE WHEN is_final OR is_counted AND attempts_ended + 1 >= attempts_allowed THEN this_moment END,
        due_at = CASE WHEN retry_in > interval '0' THEN this_moment + retry_in END
    WHERE id = job.id
    RETURNING * INTO job;
    IF job.died_at IS NULL THEN
        RETURN CASE WHEN mq_issue_ticket(job) THEN 'ready' ELSE 'scheduled' END;
    END IF;
    INSERT INTO mq_dead (died_at, id) VALUES (job.died_at, job.id);
    IF job.ordered AND job.passes_when_dead THEN
        PERFORM mq_advance_channel(job);
    END IF;
    PERFORM mq_forget_dead(10);
    RETURN 'dead';
END
$$;
COMMENT ON FUNCTION mq_end_attempt IS 'Internal. Ends an attempt that did not complete its job: the job waits again, or is dead.';
