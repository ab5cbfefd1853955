-- Internal. The head of the channel's order is finished: it is the next one's turn.
-- It is looked for behind the finished one, since what lies before may be long dead and still have to be
-- stepped over; or from the beginning, where a job that had passed was given another try.
-- With nobody to be seen behind the head, or somebody whose row is locked (it is being cancelled, say),
-- the channel is left to the next poll (mq_settle_idle_channels).
-- mq_leave_channel does the same, for many channels in one statement, where the next job can simply run.
-- Locks:   the next job's ticket and row, without waiting.
CREATE FUNCTION mq_advance_channel(finished mq_msgs) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, @extschema@, pg_temp
SET enable_seqscan = off
SET jit = off
AS $$
DECLARE
    after    CONSTANT bigint := CASE
        WHEN (SELECT chain.looks_back FROM mq_chains AS chain WHERE chain.channel = finished.channel) THEN 0
        ELSE finished.position
    END;
    place    bigint;
    next_id  uuid;
    job      mq_msgs;
    is_taken boolean;
BEGIN
    LOOP
        SELECT ticket.position, ticket.id INTO place, next_id FROM mq_blocked AS ticket
        WHERE ticket.channel = finished.channel AND ticket.position > after
        ORDER BY ticket.position LIMIT 1;
        IF FOUND THEN
            -- First the ticket, then the job: the order in which everybody takes them.
            PERFORM FROM mq_blocked WHERE channel = finished.channel AND position = place FOR UPDATE SKIP LOCKED;
        END IF;
        IF FOUND THEN
            SELECT * INTO job FROM mq_msgs WHERE id = next_id AND position = place FOR UPDATE SKIP LOCKED;
            is_taken := FOUND;
            IF NOT is_taken AND NOT EXISTS (SELECT FROM mq_msgs WHERE id = next_id AND position = place) THEN
                DELETE FROM mq_blocked WHERE channel = finished.channel AND position = place;
                CONTINUE;
            END IF;
        ELSE
            is_taken := false;
        END IF;
        IF NOT is_taken THEN
            INSERT INTO mq_idle_channels (channel) VALUES (finished.channel) ON CONFLICT DO NOTHING;
            EXIT;
        END IF;
        DELETE FROM mq_blocked WHERE channel = finished.channel AND position = place;
        IF job.cancel_requested_at IS NOT NULL OR job.reserved_until <= clock_timestamp() THEN
            DELETE FROM mq_scheduled WHERE due_at = job.reserved_until AND id = job.id;
            DELETE FROM mq_msgs WHERE id = job.id;
            CONTINUE;
        END IF;
        UPDATE mq_heads SET id = job.id WHERE channel = finished.channel AND id = finished.id;
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
