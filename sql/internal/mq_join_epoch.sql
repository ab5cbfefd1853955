-- Internal. The epoch in which this transaction issues tickets: the current one when it first asks, and
-- the same from then on, so that it holds no more than one epoch open, however long it takes.
-- Locks:   the epoch, shared, until the transaction ends: no poll takes it for finished before that.
CREATE FUNCTION mq_join_epoch() RETURNS integer
LANGUAGE plpgsql
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    me     CONSTANT text := pg_current_xact_id()::text;
    -- Whose epoch it is, and which.
    joined text := current_setting('sqlxmq.epoch', true);
    epoch  integer;
BEGIN
    -- With the transaction's number, since anybody can set it, for a session, too.
    IF split_part(joined, ' ', 1) = me THEN
        RETURN split_part(joined, ' ', 2)::integer;
    END IF;
    LOOP
        epoch := coalesce(pg_sequence_last_value('mq_epoch'), 1)::integer;
        IF NOT pg_try_advisory_xact_lock_shared('mq_epoch'::regclass::oid::integer, epoch) THEN
            PERFORM pg_advisory_xact_lock_shared('mq_epoch'::regclass::oid::integer, epoch);
        END IF;
        -- Before the lock was there, the epoch may have ended.
        EXIT WHEN epoch = coalesce(pg_sequence_last_value('mq_epoch'), 1);
    END LOOP;
    joined := set_config('sqlxmq.epoch', me || ' ' || epoch, true);
    RETURN epoch;
END
$$;
COMMENT ON FUNCTION mq_join_epoch IS 'Internal. The epoch in which this transaction issues tickets, held open until it ends.';
