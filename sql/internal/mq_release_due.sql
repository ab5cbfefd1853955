-- Internal. Jobs whose time has come become ready; reservations whose time is over disappear.
-- A ticket counts only if its time is the job's; others are left over and are dropped.
-- Arguments: since, nothing earlier is looked for; most_jobs, how many at most.
-- Returns: how many tickets it has met.
-- Locks:   the tickets, and reserved jobs, without waiting: a reservation whose row is locked is
--          being committed, kept alive or cancelled right now.
CREATE FUNCTION mq_release_due(since timestamptz, this_moment timestamptz, most_jobs integer) RETURNS integer
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
    tickets  integer;
    reserved uuid[];
    over     mq_msgs;
    epoch    CONSTANT integer := mq_join_epoch();
BEGIN
    WITH due AS (
        DELETE FROM mq_scheduled WHERE ctid = ANY (ARRAY(
            SELECT ticket.ctid FROM mq_scheduled AS ticket
            WHERE ticket.due_at >= since AND ticket.due_at <= this_moment
            ORDER BY ticket.due_at LIMIT most_jobs FOR UPDATE SKIP LOCKED))
        RETURNING due_at, id
    ), job AS MATERIALIZED (
        SELECT job.* FROM due CROSS JOIN LATERAL (
            SELECT id, channel, priority, position, reserved_until FROM mq_msgs
            WHERE id = due.id AND coalesce(reserved_until, due_at) = due.due_at
            OFFSET 0) AS job
    ), ready AS (
        INSERT INTO mq_ready (channel, priority, position, id, epoch)
        SELECT channel, priority, position, id, epoch FROM job WHERE reserved_until IS NULL
        ON CONFLICT DO NOTHING
    )
    SELECT (SELECT count(*)::integer FROM due), array_agg(id) INTO tickets, reserved FROM job WHERE reserved_until IS NOT NULL;

    IF reserved IS NULL THEN
        RETURN tickets;
    END IF;
    FOR over IN
        SELECT * FROM mq_msgs WHERE id = ANY (reserved) AND reserved_until <= this_moment
        ORDER BY id FOR UPDATE SKIP LOCKED
    LOOP
        DELETE FROM mq_msgs WHERE id = over.id;
        reserved := array_remove(reserved, over.id);
    END LOOP;
    -- Whoever holds the others' rows needs to find their tickets, unless he has moved them.
    INSERT INTO mq_scheduled (due_at, id)
    SELECT job.reserved_until, job.id FROM mq_msgs AS job
    WHERE job.id = ANY (reserved) AND job.reserved_until <= this_moment
    ON CONFLICT DO NOTHING;
    RETURN tickets;
END
$$;
COMMENT ON FUNCTION mq_release_due IS 'Internal. Makes due jobs ready and drops the reservations that are over.';
