-- Internal. Whether another session holds the advisory lock. It tries to take it and lets go of it at once.
CREATE FUNCTION mq_somebody_holds(class integer, key integer) RETURNS boolean
LANGUAGE sql VOLATILE
RETURN CASE WHEN pg_catalog.pg_try_advisory_lock(class, key) THEN NOT pg_catalog.pg_advisory_unlock(class, key) ELSE true END;
COMMENT ON FUNCTION mq_somebody_holds IS 'Internal. Whether another session holds an advisory lock.';
