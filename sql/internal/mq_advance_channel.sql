-- Internal. The head of the channel's order is finished: it is the next one's turn.
-- With nobody to be seen behind the head, the channel is left to the next poll, which can tell
-- whether a sender is still about to commit (mq_settle_idle_channels).
-- Locks:   the next job's row and ticket.
CREATE FUNCTION mq_advance_channel(finished mq_msgs) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, @extschema@, pg_temp
SET enable_seqscan = off
SET jit = off
AS $$
DECLARE
    next_id uuid;
    job     mq_msgs;
BEGIN
    LOOP
        DELETE FROM mq_blocked
        WHERE ctid = (
            SELECT ticket.ctid FROM mq_blocked AS ticket
            WHERE ticket.channel = finished.channel
            ORDER BY ticket.position LIMIT 1 FOR UPDATE)
        RETURNING id INTO next_id;
        IF NOT FOUND THEN
            INSERT INTO mq_idle_channels (channel) VALUES (finished.channel) ON CONFLICT DO NOTHING;
            EXIT;
        END IF;
        SELECT * INTO job FROM mq_msgs WHERE id = next_id FOR UPDATE;
        CONTINUE WHEN NOT FOUND;
        IF job.cancel_requested_at IS NOT NULL OR job.reserved_until <= clock_timestamp() THEN
            DELETE FROM mq_scheduled WHERE due_at = job.reserved_until AND id = job.id;
            DELETE FROM mq_msgs WHERE id = job.id;
            CONTINUE;
        END IF;
        UPDATE mq_heads SET id = job.id WHERE channel = finished.channel;
        -- A reservation has had its ticket, among the scheduled, since it was sent.
        IF job.reserved_until IS NULL THEN
            PERFORM mq_issue_ticket(job);
        END IF;
        EXIT;
    END LOOP;
    PERFORM mq_notify(ARRAY[finished.channel_name]);
END
$$;
COMMENT ON FUNCTION mq_advance_channel IS 'Internal. Gives the turn to the job behind a finished ordered one.';
