-- Internal. Whether somebody may be asleep who waits for jobs of this channel name. What mq_notify asks, as an
-- expression: the body is parsed when it is created, depends on no search_path, and is inlined.
CREATE FUNCTION mq_somebody_may_sleep(channel_name text) RETURNS boolean
LANGUAGE sql VOLATILE
RETURN coalesce(pg_catalog.pg_sequence_last_value('mq_notified_until'::regclass)
                    >= pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()), false)
    OR mq_somebody_holds('mq_notified_until'::regclass::oid::integer, pg_catalog.hashtext(channel_name))
    OR mq_somebody_holds('mq_notified_until'::regclass::oid::integer, 0);
COMMENT ON FUNCTION mq_somebody_may_sleep IS 'Internal. Whether somebody may be asleep who waits for jobs of this channel name.';
