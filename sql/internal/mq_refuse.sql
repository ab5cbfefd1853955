-- Internal. All refusals of bad input read alike: which argument, what it was, what is allowed.
CREATE FUNCTION mq_refuse(sqlstate_code text, argument text, value text, rule text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION USING
        ERRCODE = sqlstate_code,
        MESSAGE = format('%s is %s, but %s', argument, coalesce(left(value, 200), 'NULL'), rule);
END
$$;
COMMENT ON FUNCTION mq_refuse IS 'Internal. Raises the error for a bad argument.';
