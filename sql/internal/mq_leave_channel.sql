-- Internal. However an ordered job leaves the queue (completed, deleted, cancelled, cleared, expired,
-- or its row deleted by hand), its channel goes on. Only ordered jobs pay for this trigger: its WHEN
-- is evaluated before the event is queued. It fires on DELETE only, so a restore does not meet it.
CREATE FUNCTION mq_leave_channel() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    DELETE FROM mq_blocked WHERE channel = OLD.channel AND position = OLD.position;
    IF NOT FOUND
        -- It gave the turn away when it died.
        AND NOT (OLD.died_at IS NOT NULL AND OLD.passes_when_dead)
        AND EXISTS (SELECT FROM mq_heads WHERE channel = OLD.channel AND id = OLD.id) THEN
        PERFORM mq_advance_channel(OLD);
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION mq_leave_channel IS 'Internal. Trigger function: an ordered job has left the queue, its channel goes on.';

CREATE TRIGGER mq_leave_channel AFTER DELETE ON mq_msgs
FOR EACH ROW WHEN (OLD.ordered)
EXECUTE FUNCTION mq_leave_channel();
COMMENT ON TRIGGER mq_leave_channel ON mq_msgs IS 'An ordered job has left the queue: the one behind it gets its turn.';
