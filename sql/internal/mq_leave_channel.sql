-- Internal. However ordered jobs leave the queue (completed, deleted, cancelled, cleared, expired, or
-- their rows deleted by hand), their channels go on. It fires once a statement, for all jobs that the
-- statement deleted: a batch gives all its turns away, and notifies, at once. A statement that deletes
-- none but unordered jobs pays for one look. It fires on DELETE only, so a restore does not meet it.
-- Locks:   the next jobs' tickets and rows, without waiting.
CREATE FUNCTION mq_leave_channel() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET enable_bitmapscan = off
SET jit = off
AS $$
DECLARE
    channel_names text[];
    are_all       boolean;
    finished      mq_msgs;
BEGIN
    IF NOT EXISTS (SELECT FROM gone WHERE gone.ordered) THEN
        RETURN NULL;
    END IF;

    -- What nearly always happens: a head is done, and the job behind it can run. Each look-up hangs on the
    -- one before it, so that the planner, whatever it knows, has no other order to choose, and the ticket
    -- is locked before the job, as everywhere.
    WITH turn AS MATERIALIZED (
        SELECT gone.channel, gone.channel_name, head.place AS head, next.place AS ticket, job.id, job.priority, job.position
        FROM gone CROSS JOIN LATERAL (
            SELECT one.ctid AS place, one.channel FROM mq_heads AS one
            WHERE one.channel = gone.channel AND one.id = gone.id
              AND (SELECT NOT chain.looks_back FROM mq_chains AS chain WHERE chain.channel = gone.channel)
            OFFSET 0) AS head
        CROSS JOIN LATERAL (
            SELECT ticket.ctid AS place, ticket.id, ticket.position FROM mq_blocked AS ticket
            -- Found first, locked then: if somebody has it locked, the next one must not pass it.
            WHERE ticket.channel = head.channel
              AND ticket.position = (
                  SELECT behind.position FROM mq_blocked AS behind
                  WHERE behind.channel = head.channel AND behind.position > gone.position
                  ORDER BY behind.position LIMIT 1)
            FOR UPDATE SKIP LOCKED) AS next
        CROSS JOIN LATERAL (
            SELECT candidate.id, candidate.priority, candidate.position FROM mq_msgs AS candidate
            WHERE candidate.id = next.id AND candidate.position = next.position
              AND candidate.cancel_requested_at IS NULL AND candidate.reserved_until IS NULL AND candidate.due_at IS NULL
            FOR UPDATE SKIP LOCKED) AS job
        WHERE gone.ordered AND gone.died_at IS NULL
    ), ticket AS (
        DELETE FROM mq_blocked WHERE ctid = ANY (ARRAY(SELECT turn.ticket FROM turn))
    ), old_head AS (
        DELETE FROM mq_heads WHERE ctid = ANY (ARRAY(SELECT turn.head FROM turn))
    ), new_head AS (
        INSERT INTO mq_heads (channel, id) SELECT turn.channel, turn.id FROM turn
    ), ready AS (
        INSERT INTO mq_ready (channel, priority, position, id, epoch)
        SELECT turn.channel, turn.priority, turn.position, turn.id, (SELECT mq_join_epoch()) FROM turn
    )
    SELECT array_agg(turn.channel_name), count(*) = (SELECT count(*) FROM gone WHERE gone.ordered)
    INTO channel_names, are_all FROM turn;
    IF channel_names IS NOT NULL THEN
        PERFORM mq_notify(channel_names);
    END IF;
    IF are_all THEN
        RETURN NULL;
    END IF;

    -- Those that were waiting for their turn take their tickets along; any other head passes its turn on.
    FOR finished IN
        WITH blocked AS (
            DELETE FROM mq_blocked WHERE ctid = ANY (ARRAY(
                SELECT place.ctid FROM gone CROSS JOIN LATERAL (
                    SELECT ticket.ctid FROM mq_blocked AS ticket
                    WHERE ticket.channel = gone.channel AND ticket.position = gone.position OFFSET 0) AS place
                WHERE gone.ordered))
            RETURNING true
        )
        SELECT gone.* FROM gone
        WHERE gone.ordered
          -- It gave the turn away when it died.
          AND NOT (gone.died_at IS NOT NULL AND gone.passes_when_dead)
          -- Nor was it waiting: this statement, which first deletes all those tickets, still sees them.
          AND (SELECT count(*) FROM blocked) >= 0
          AND (SELECT true FROM mq_blocked AS ticket
               WHERE ticket.channel = gone.channel AND ticket.position = gone.position) IS NULL
          AND (SELECT true FROM mq_heads AS head WHERE head.channel = gone.channel AND head.id = gone.id)
    LOOP
        PERFORM mq_advance_channel(finished);
    END LOOP;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION mq_leave_channel IS 'Internal. Trigger function: ordered jobs have left the queue, their channels go on.';

CREATE TRIGGER mq_leave_channel AFTER DELETE ON mq_msgs
REFERENCING OLD TABLE AS gone
FOR EACH STATEMENT
EXECUTE FUNCTION mq_leave_channel();
COMMENT ON TRIGGER mq_leave_channel ON mq_msgs IS 'Jobs have left the queue: behind the ordered ones, the next get their turn.';
