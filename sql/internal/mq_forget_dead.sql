-- Internal. Deletes dead jobs that are older than the retention allows, the oldest first.
-- Called where it cannot slow down a busy queue: when a job dies, and when a poll finds nothing.
CREATE FUNCTION mq_forget_dead(most_jobs integer) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, @extschema@, pg_temp
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET jit = off
AS $$
DECLARE
    retention interval;
BEGIN
    SELECT dead_retention INTO retention FROM mq_settings WHERE is_only_row;
    IF retention IS NULL THEN
        RETURN;
    END IF;
    WITH forgotten AS (
        DELETE FROM mq_dead WHERE ctid = ANY (ARRAY(
            SELECT ticket.ctid FROM mq_dead AS ticket
            WHERE ticket.died_at <= clock_timestamp() - retention
            ORDER BY ticket.died_at LIMIT most_jobs FOR UPDATE SKIP LOCKED))
        RETURNING died_at, id
    )
    DELETE FROM mq_msgs AS job USING forgotten
    WHERE job.id = forgotten.id AND job.died_at = forgotten.died_at;
END
$$;
COMMENT ON FUNCTION mq_forget_dead IS 'Internal. Deletes dead jobs that have been kept long enough.';
