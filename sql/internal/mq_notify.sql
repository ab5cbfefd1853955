-- Internal. Wakes the workers of these channel names, if any, when the transaction commits; a name may
-- stand there several times. 'mq' is what workers of all channels listen on.
CREATE FUNCTION mq_notify(channel_names text[]) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    PERFORM pg_notify(mq_notify_channel(wanted.channel_name), '')
    FROM (SELECT DISTINCT c FROM unnest(channel_names) AS c) AS wanted (channel_name);
    IF FOUND THEN
        PERFORM pg_notify('mq', '');
    END IF;
END
$$;
COMMENT ON FUNCTION mq_notify IS 'Internal. Announces that jobs of these channel names may have become ready.';
