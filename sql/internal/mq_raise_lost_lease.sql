-- Internal. SQLSTATE MQ001 is the fence: it rolls back the transaction of a worker that is late, with
-- all it wrote.
CREATE FUNCTION mq_raise_lost_lease(msg_id uuid, attempt integer) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    job mq_msgs;
BEGIN
    SELECT * INTO job FROM mq_msgs WHERE mq_msgs.id = msg_id;
    RAISE EXCEPTION USING
        ERRCODE = 'MQ001',
        MESSAGE = format('job %s is not held at attempt %s', msg_id, attempt),
        DETAIL = CASE
            WHEN job.id IS NULL THEN 'The job is not in the queue: it was completed, cancelled or cleared.'
            ELSE format('Attempts of the job that have ended so far: %s.', job.attempts_ended)
        END,
        HINT = 'Somebody else may hold the job by now. Roll back and drop this attempt.';
END
$$;
COMMENT ON FUNCTION mq_raise_lost_lease IS 'Internal. Raises MQ001: the caller does not hold the job at this attempt.';
