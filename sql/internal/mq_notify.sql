-- Internal. Wakes the workers of these channel names when the transaction commits; PostgreSQL drops
-- what the transaction has announced already. 'mq' is what workers of all channels listen on.
CREATE FUNCTION mq_notify(channel_names text[]) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    channel_name text;
BEGIN
    FOREACH channel_name IN ARRAY channel_names LOOP
        PERFORM pg_notify(mq_notify_channel(channel_name), '');
    END LOOP;
    PERFORM pg_notify('mq', '');
END
$$;
COMMENT ON FUNCTION mq_notify IS 'Internal. Announces that jobs of these channel names may have become ready.';
