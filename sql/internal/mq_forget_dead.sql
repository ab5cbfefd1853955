-- Internal. Deletes dead jobs that are older than the retention allows, the oldest first.
-- Locks:   tickets and jobs, without waiting: a locked one is being retried or removed.
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
    old       record;
BEGIN
    SELECT dead_retention INTO retention FROM mq_settings WHERE is_only_row;
    IF retention IS NULL THEN
        RETURN;
    END IF;
    FOR old IN
        SELECT ticket.died_at, ticket.id FROM mq_dead AS ticket
        WHERE ticket.died_at <= clock_timestamp() - retention
        ORDER BY ticket.died_at LIMIT most_jobs FOR UPDATE SKIP LOCKED
    LOOP
        PERFORM FROM mq_msgs WHERE mq_msgs.id = old.id AND mq_msgs.died_at = old.died_at FOR UPDATE SKIP LOCKED;
        IF FOUND THEN
            DELETE FROM mq_msgs WHERE mq_msgs.id = old.id;
        ELSIF EXISTS (SELECT FROM mq_msgs WHERE mq_msgs.id = old.id AND mq_msgs.died_at = old.died_at) THEN
            CONTINUE;
        END IF;
        DELETE FROM mq_dead WHERE mq_dead.died_at = old.died_at AND mq_dead.id = old.id;
    END LOOP;
END
$$;
COMMENT ON FUNCTION mq_forget_dead IS 'Internal. Deletes dead jobs that have been kept long enough.';
