-- Internal. Issues tickets of an old epoch anew, in the current one.
-- Returns: how many; the others, if any, are locked or more than were asked for.
-- Locks:   the tickets, without waiting: a locked one is being claimed.
CREATE FUNCTION mq_carry_over(old_epoch integer, most_tickets integer) RETURNS integer
LANGUAGE plpgsql
SET search_path = pg_catalog, @extschema@, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_bitmapscan = off
SET jit = off
AS $$
DECLARE
    current_epoch CONSTANT integer := mq_join_epoch();
    carried       integer;
BEGIN
    WITH left_behind AS (
        DELETE FROM mq_ready WHERE ctid = ANY (ARRAY(
            SELECT ticket.ctid FROM mq_ready AS ticket
            WHERE ticket.epoch = old_epoch
            ORDER BY ticket.channel, ticket.priority, ticket.position LIMIT most_tickets FOR UPDATE SKIP LOCKED))
        RETURNING channel, priority, position, id
    )
    INSERT INTO mq_ready (channel, priority, position, id, epoch)
    SELECT channel, priority, position, id, current_epoch FROM left_behind
    ON CONFLICT DO NOTHING;
    GET DIAGNOSTICS carried = ROW_COUNT;
    RETURN carried;
END
$$;
COMMENT ON FUNCTION mq_carry_over IS 'Internal. Issues tickets of an old epoch anew, in the current one.';
