-- Internal. Called by polls now and then while there is more than one epoch. It lets polls begin their
-- look after the epochs that are finished, and carries over what is left behind in old ones.
-- An epoch is finished when nobody in flight issues tickets in it, and none is to be seen there. One that
-- somebody holds on to for long is written down in mq_late_epochs, and is looked at from here only.
-- Locks:   an advisory lock that lets one session write at a time; the tickets that it carries over,
--          without waiting.
CREATE FUNCTION mq_tend_epochs() RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, @extschema@, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET enable_bitmapscan = off
SET jit = off
AS $$
DECLARE
    this_moment   CONSTANT timestamptz := clock_timestamp();
    class         CONSTANT integer := 'mq_epoch'::regclass::oid::integer;
    few           CONSTANT integer := 500;
    began_with    CONSTANT integer := coalesce(pg_sequence_last_value('mq_first_epoch'), 1)::integer;
    current_epoch CONSTANT integer := coalesce(pg_sequence_last_value('mq_epoch'), 1)::integer;
    first_epoch   integer := began_with;
    late          integer;
    tickets       integer;
    is_closed     boolean;
BEGIN
    -- What this transaction has done itself it would take for done, and may yet roll back; its own hold on
    -- an epoch (which it has not without a number) it would not notice; an older snapshot would show it less
    -- than there is.
    IF pg_current_xact_id_if_assigned() IS NOT NULL OR current_setting('transaction_isolation') <> 'read committed' THEN
        RETURN;
    END IF;
    WHILE first_epoch < current_epoch LOOP
        IF NOT EXISTS (SELECT FROM mq_late_epochs WHERE epoch = first_epoch) THEN
            -- First nobody holds it, then nothing is there: in this order, since a sender's tickets are to
            -- be seen before its lock is gone.
            EXIT WHEN mq_somebody_holds(class, first_epoch);
            EXIT WHEN EXISTS (SELECT FROM mq_ready WHERE epoch = first_epoch);
        END IF;
        first_epoch := first_epoch + 1;
    END LOOP;
    IF first_epoch > began_with THEN
        PERFORM setval('mq_first_epoch', first_epoch);
    END IF;

    -- Not for more than a twentieth of the time.
    PERFORM setval('mq_tend_again_at', (extract(epoch FROM
        clock_timestamp() + greatest(interval '0.01 seconds', 20 * (clock_timestamp() - this_moment))) * 1000000)::bigint);

    -- What is written from here on others see when this transaction ends, which may be late: the lock is taken
    -- only when there is something to write.
    IF current_epoch - first_epoch >= 12 THEN
        SELECT count(*)::integer INTO tickets FROM (SELECT FROM mq_ready WHERE epoch = first_epoch LIMIT few + 1) AS ticket;
        -- Many drain by themselves, unless nobody polls for them and new epochs find no room.
        IF (tickets <= few OR current_epoch - first_epoch >= 15) AND pg_try_advisory_xact_lock(class, 0) THEN
            IF mq_carry_over(first_epoch, few) = 0 THEN
                INSERT INTO mq_late_epochs (epoch) VALUES (first_epoch) ON CONFLICT DO NOTHING;
            END IF;
        END IF;
    END IF;
    FOR late IN SELECT epoch FROM mq_late_epochs WHERE epoch < first_epoch ORDER BY epoch LOOP
        is_closed := NOT mq_somebody_holds(class, late);
        -- While it is held on to, others that held it, too, may have brought something: a look now and then.
        CONTINUE WHEN NOT is_closed AND random() > 0.05;
        EXIT WHEN NOT pg_try_advisory_xact_lock(class, 0);
        PERFORM mq_carry_over(late, few);
        IF is_closed THEN
            DELETE FROM mq_late_epochs
            WHERE epoch = late AND NOT EXISTS (SELECT FROM mq_ready WHERE mq_ready.epoch = late);
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION mq_tend_epochs IS 'Internal. Lets polls begin after the epochs that are finished, and carries over what is left in old ones.';
