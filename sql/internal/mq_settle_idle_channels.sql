-- Internal. For channels whose head was finished with nobody seen behind it. With the channel's row
-- locked no sender is about to commit, so what is seen now is all there is: somebody's turn, or the
-- end of the channel. A channel whose row a sender holds is left for a later poll; that sender's
-- commit wakes one.
-- Locks:   the channels' rows, without waiting.
CREATE FUNCTION mq_settle_idle_channels() RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, @extschema@, pg_temp
SET enable_seqscan = off
SET jit = off
AS $$
DECLARE
    idle     uuid;
    finished mq_msgs;
BEGIN
    FOR idle IN
        SELECT channel FROM mq_idle_channels ORDER BY channel LIMIT 100 FOR UPDATE SKIP LOCKED
    LOOP
        PERFORM FROM mq_chains WHERE channel = idle FOR UPDATE SKIP LOCKED;
        IF NOT FOUND THEN
            CONTINUE WHEN EXISTS (SELECT FROM mq_chains WHERE channel = idle);
            DELETE FROM mq_idle_channels WHERE channel = idle;
            CONTINUE;
        END IF;
        -- Somebody may have the turn already: a row that was left twice. Not so a head that passed
        -- when it died, dead still or retried and waiting for a new turn.
        PERFORM FROM mq_heads JOIN mq_msgs AS job ON job.id = mq_heads.id
        WHERE mq_heads.channel = idle
          AND NOT (job.died_at IS NOT NULL AND job.passes_when_dead)
          AND NOT EXISTS (SELECT FROM mq_blocked AS ticket
                          WHERE ticket.channel = job.channel AND ticket.position = job.position);
        IF FOUND THEN
            DELETE FROM mq_idle_channels WHERE channel = idle;
            CONTINUE;
        END IF;
        SELECT job.* INTO finished
        FROM mq_blocked AS ticket JOIN mq_msgs AS job ON job.id = ticket.id
        WHERE ticket.channel = idle
        ORDER BY ticket.position LIMIT 1;
        IF FOUND THEN
            DELETE FROM mq_idle_channels WHERE channel = idle;
            -- What is known of the one that is finished; the next is looked for from the beginning.
            finished.id := (SELECT head.id FROM mq_heads AS head WHERE head.channel = idle);
            finished.position := 0;
            PERFORM mq_advance_channel(finished);
        ELSIF current_setting('transaction_isolation') = 'read committed' THEN
            DELETE FROM mq_idle_channels WHERE channel = idle;
            DELETE FROM mq_heads WHERE channel = idle;
            DELETE FROM mq_chains WHERE channel = idle;
        END IF;
        -- Otherwise an older snapshot may hide a job sent meanwhile: a later poll decides.
    END LOOP;
END
$$;
COMMENT ON FUNCTION mq_settle_idle_channels IS 'Internal. Gives the turn in channels without a head, or closes them.';
