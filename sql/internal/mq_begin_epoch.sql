-- Internal. Lets a new epoch begin: what is sent from now on lies apart from the dead entries of before.
-- Not twice within a fiftieth of a second, so that polls that notice the same dead entries at the same time
-- begin one epoch, not one each; nor when there are many already.
CREATE FUNCTION mq_begin_epoch(this_time bigint) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    current_epoch CONSTANT integer := coalesce(pg_sequence_last_value('mq_epoch'), 1)::integer;
BEGIN
    IF current_epoch - coalesce(pg_sequence_last_value('mq_first_epoch'), 1)::integer >= 15
        OR current_epoch = 2147483647
        OR this_time < coalesce(pg_sequence_last_value('mq_epoch_began_at'), 0) + 20000 THEN
        RETURN;
    END IF;
    PERFORM setval('mq_epoch_began_at', this_time);
    -- Twice, the first time that it is used: a sequence begins with the number that it shows before.
    WHILE nextval('mq_epoch') <= current_epoch LOOP
    END LOOP;
END
$$;
COMMENT ON FUNCTION mq_begin_epoch IS 'Internal. Lets a new epoch begin.';
