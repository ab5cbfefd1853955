-- Internal. Wakes the workers of these channel names, if any sleep, when the transaction commits; a name may
-- stand there several times. 'mq' is what workers of all channels listen on.
-- Called after something was written: who falls asleep meanwhile sees by this transaction's number that
-- it has to look again.
CREATE FUNCTION mq_notify(channel_names text[]) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    class     CONSTANT integer := 'mq_notified_until'::regclass::oid::integer;
    is_always CONSTANT boolean := pg_sequence_last_value('mq_notified_until') >= date_part('epoch', clock_timestamp());
    one       text;
BEGIN
    IF cardinality(channel_names) > 1 THEN
        channel_names := ARRAY(SELECT DISTINCT c FROM unnest(channel_names) AS c);
    END IF;
    FOREACH one IN ARRAY channel_names LOOP
        IF is_always OR mq_somebody_holds(class, hashtext(one)) THEN
            PERFORM pg_notify(mq_notify_channel(one), '');
        END IF;
    END LOOP;
    IF channel_names <> '{}' AND (is_always OR mq_somebody_holds(class, 0)) THEN
        PERFORM pg_notify('mq', '');
    END IF;
END
$$;
COMMENT ON FUNCTION mq_notify IS 'Internal. Announces that jobs of these channel names may have become ready, if anybody may be asleep.';
