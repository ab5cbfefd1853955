-- Purpose: which version of the queue's SQL this is.
-- Returns: the version, as in the extension's control file.
-- Locks:   none.
-- Errors:  none.
-- Callers: producer, worker, observer, operator.
CREATE FUNCTION mq_version() RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN '@VERSION@'::text;
COMMENT ON FUNCTION mq_version IS 'The version of this queue''s SQL.';
