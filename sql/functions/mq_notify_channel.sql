-- Purpose: which channel to LISTEN on for jobs of a channel name.
-- Returns: 'mq_' || channel_name where that is at most 63 bytes long, the most that NOTIFY takes;
--          else 'mq_' and the first 60 hexadecimal digits of the SHA-256 of the name's UTF-8 bytes.
-- Locks:   none.
-- Errors:  none; NULL gives NULL.
-- Callers: producer, worker, observer, operator.
CREATE FUNCTION mq_notify_channel(channel_name text) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE
    WHEN pg_catalog.octet_length(channel_name) <= 60 THEN 'mq_' || channel_name
    ELSE 'mq_' || pg_catalog."left"(pg_catalog.encode(
        pg_catalog.sha256(pg_catalog.convert_to(channel_name, 'UTF8')), 'hex'), 60)
END;
COMMENT ON FUNCTION mq_notify_channel IS 'The NOTIFY channel on which jobs of a channel name are announced.';
