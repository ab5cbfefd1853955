-- Internal. Lets a job go that nothing is in front of: it is ready, or scheduled for its time.
-- Returns: whether it is ready.
CREATE FUNCTION mq_issue_ticket(job mq_msgs) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    IF job.due_at > clock_timestamp() THEN
        INSERT INTO mq_scheduled (due_at, id) VALUES (job.due_at, job.id) ON CONFLICT DO NOTHING;
        RETURN false;
    END IF;
    INSERT INTO mq_ready (channel, priority, position, id, epoch)
    VALUES (job.channel, job.priority, job.position, job.id, mq_join_epoch())
    ON CONFLICT DO NOTHING;
    RETURN true;
END
$$;
COMMENT ON FUNCTION mq_issue_ticket IS 'Internal. Gives a job that nothing holds back its ticket: ready or scheduled.';
