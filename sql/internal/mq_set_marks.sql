-- Internal. Lets polls look for what is due from its earliest on, instead of stepping over all that is gone
-- (is_needed), or from the beginning again. After a poll that distrusted the marks (was_distrusted), says when
-- the next is to.
CREATE FUNCTION mq_set_marks(this_moment timestamptz, next_due timestamptz, next_deadline timestamptz, is_needed boolean, was_distrusted boolean) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    -- A millisecond less, for what rounding may do.
    PERFORM setval('mq_scheduled_mark', CASE WHEN is_needed
        THEN (extract(epoch FROM least(next_due, this_moment)) * 1000000)::bigint - 1000 ELSE 0 END);
    PERFORM setval('mq_claims_mark', CASE WHEN is_needed
        THEN (extract(epoch FROM least(next_deadline, this_moment)) * 1000000)::bigint - 1000 ELSE 0 END);
    IF was_distrusted THEN
        PERFORM setval('mq_look_again_at', (extract(epoch FROM
            clock_timestamp() + greatest(interval '0.1 seconds', 20 * (clock_timestamp() - this_moment))) * 1000000)::bigint);
    END IF;
END
$$;
COMMENT ON FUNCTION mq_set_marks IS 'Internal. Says from where on polls look for what is due, and when they look from the beginning again.';
