-- Internal. What all functions that take lists of jobs ask of them.
-- attempts may be NULL where the function allows it to be left out.
CREATE FUNCTION mq_check_ids(msg_ids uuid[], attempts integer[], attempts_are_needed boolean) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    IF msg_ids IS NULL THEN
        PERFORM mq_refuse('22004', 'msg_ids', NULL, 'it must be an array of job ids');
    ELSIF array_ndims(msg_ids) > 1 THEN
        PERFORM mq_refuse('22023', 'msg_ids', msg_ids::text, 'it must have one dimension');
    ELSIF array_position(msg_ids, NULL) IS NOT NULL THEN
        PERFORM mq_refuse('22004', format('msg_ids[%s]', array_position(msg_ids, NULL)), NULL,
            'every job id must be given');
    END IF;
    IF attempts IS NULL THEN
        IF attempts_are_needed THEN
            PERFORM mq_refuse('22004', 'attempts', NULL, 'it must hold the attempt number of every job');
        END IF;
    ELSIF cardinality(attempts) <> cardinality(msg_ids) THEN
        PERFORM mq_refuse('22023', 'attempts', format('of length %s', cardinality(attempts)),
            format('it must be as long as msg_ids, %s', cardinality(msg_ids)));
    ELSIF array_ndims(attempts) > 1 THEN
        PERFORM mq_refuse('22023', 'attempts', attempts::text, 'it must have one dimension');
    ELSIF array_position(attempts, NULL) IS NOT NULL THEN
        PERFORM mq_refuse('22004', format('attempts[%s]', array_position(attempts, NULL)), NULL,
            'every attempt number must be given');
    END IF;
END
$$;
COMMENT ON FUNCTION mq_check_ids IS 'Internal. Refuses malformed lists of job ids and attempt numbers.';
