-- Internal. Takes the sender's place in the channels' order: waits for the other senders of ordered
-- jobs to these channels to commit or roll back, and holds off later ones until this transaction
-- ends. Positions given out afterwards are therefore in commit order.
-- Returns: those of the channels that had no ordered jobs; the caller names a head for each of them.
-- Locks:   the channels' rows in mq_chains, in the order of their keys, so that two senders to the
--          same channels do not deadlock within one call.
CREATE FUNCTION mq_join_channels(channels uuid[]) RETURNS uuid[]
LANGUAGE plpgsql
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    wanted uuid[] := ARRAY(SELECT DISTINCT c FROM unnest(channels) AS c ORDER BY c);
    opened uuid[] := ARRAY[]::uuid[];
    taken  uuid[];
BEGIN
    WHILE cardinality(wanted) > 0 LOOP
        WITH opening AS (
            INSERT INTO mq_chains (channel)
            SELECT c FROM unnest(wanted) AS c
            ON CONFLICT DO NOTHING
            RETURNING channel
        )
        SELECT coalesce(array_agg(channel), '{}') INTO taken FROM opening;
        opened := opened || taken;
        wanted := ARRAY(SELECT c FROM unnest(wanted) AS c WHERE c <> ALL (taken) ORDER BY c);
        taken := ARRAY(
            SELECT chain.channel FROM mq_chains AS chain
            WHERE chain.channel = ANY (wanted) ORDER BY chain.channel FOR UPDATE);
        -- What is left was there a moment ago and has been closed by a poll since: open it anew.
        wanted := ARRAY(SELECT c FROM unnest(wanted) AS c WHERE c <> ALL (taken) ORDER BY c);
    END LOOP;
    RETURN opened;
END
$$;
COMMENT ON FUNCTION mq_join_channels IS 'Internal. Queues the sender of ordered jobs behind the other senders to the same channels.';
