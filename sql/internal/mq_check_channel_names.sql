-- Internal. What all functions that take channel names ask of the array, which is not NULL.
CREATE FUNCTION mq_check_channel_names(channel_names text[]) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    IF array_ndims(channel_names) > 1 THEN
        PERFORM mq_refuse('22023', 'channel_names', channel_names::text, 'it must have one dimension');
    ELSIF array_position(channel_names, NULL) IS NOT NULL THEN
        PERFORM mq_refuse('22004', format('channel_names[%s]', array_position(channel_names, NULL)), NULL,
            'every channel name must be given; for all channels, pass NULL for the array');
    END IF;
END
$$;
COMMENT ON FUNCTION mq_check_channel_names IS 'Internal. Refuses malformed arrays of channel names.';
