\echo Use "ALTER EXTENSION sqlxmq UPDATE" to load this file. \quit

-- From 0.3.0 to 0.4.0: what CREATE EXTENSION makes of 0.4.0, with the jobs and the rights that are there.

-- First the locks that this needs. Workers take them in another order, and who holds one may be waiting for
-- another that is taken here already; so none is waited for long: all are let go of, and it is tried again.
-- Where transactions last, that is not enough, so each time it waits a little longer.
DO $$
DECLARE
    usual CONSTANT text := current_setting('lock_timeout');
    most  integer := 100;
BEGIN
    LOOP
        BEGIN
            PERFORM set_config('lock_timeout', most::text, true);
            LOCK TABLE mq_msgs, mq_chains, mq_heads, mq_blocked IN ACCESS EXCLUSIVE MODE;
            EXIT;
        EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
            PERFORM pg_sleep(0.1);
            most := most * 1.2;
        END;
    END LOOP;
    PERFORM set_config('lock_timeout', usual, true);
END
$$;

-- What a script GRANTs, PostgreSQL takes for a part of the extension: pg_dump leaves it out, and a restored
-- database lacks it. What an object gets from default privileges when it is created, pg_dump takes along.
-- So the new objects get the rights of those they follow as the default privileges of whoever runs this,
-- which are put back at the end.
CREATE FUNCTION mq_create_with(object_type "char", rights aclitem[], owner oid) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    kind  CONSTANT text := CASE object_type WHEN 'f' THEN 'FUNCTIONS' WHEN 'S' THEN 'SEQUENCES' ELSE 'TABLES' END;
    -- To acldefault, a sequence is 's'.
    usual CONSTANT "char" := CASE object_type WHEN 'S' THEN 's' ELSE object_type END;
    me    CONSTANT oid := (SELECT oid FROM pg_roles WHERE rolname = current_user);
    one   record;
BEGIN
    FOR one IN
        SELECT DISTINCT CASE granted.grantee WHEN 0 THEN 'PUBLIC' ELSE granted.grantee::regrole::text END AS grantee
        FROM aclexplode(coalesce(
            (SELECT defaclacl FROM pg_default_acl
             WHERE defaclrole = me AND defaclnamespace = 0 AND defaclobjtype = object_type),
            acldefault(usual, me))) AS granted
    LOOP
        EXECUTE format('ALTER DEFAULT PRIVILEGES REVOKE ALL ON %s FROM %s', kind, one.grantee);
    END LOOP;
    FOR one IN
        SELECT CASE granted.grantee WHEN 0 THEN 'PUBLIC' WHEN owner THEN me::regrole::text
                   ELSE granted.grantee::regrole::text END AS grantee,
               granted.privilege_type, bool_or(granted.is_grantable AND granted.grantee <> owner) AS is_grantable
        FROM aclexplode(coalesce(rights, acldefault(usual, owner))) AS granted
        GROUP BY 1, 2
    LOOP
        EXECUTE format('ALTER DEFAULT PRIVILEGES GRANT %s ON %s TO %s%s', one.privilege_type, kind, one.grantee,
                       CASE WHEN one.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END);
    END LOOP;
END
$$;
SELECT set_config('sqlxmq.default_' || kind, coalesce(
    (SELECT defaclacl FROM pg_default_acl
     WHERE defaclrole = role.oid AND defaclnamespace = 0 AND defaclobjtype = kind::"char"),
    acldefault(CASE kind WHEN 'S' THEN 's' ELSE kind END::"char", role.oid))::text, true)
FROM pg_roles AS role CROSS JOIN unnest(ARRAY['f', 'r', 'S']) AS kind
WHERE role.rolname = current_user;

-- Where a job is: one row in mq_msgs, and one ticket that says what it waits for (none: it runs).

-- sql/tables/channel_order.sql
ALTER TABLE mq_chains ADD COLUMN looks_back boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN mq_chains.looks_back IS 'Whether a job that had let others pass was given another try: the next one may lie before the one that is finished.';
-- Jobs that let others pass and were given another try wait before those that are running.
UPDATE mq_chains SET looks_back = true
WHERE channel IN (SELECT ticket.channel FROM mq_blocked AS ticket JOIN mq_msgs AS job ON job.id = ticket.id
                  WHERE job.passes_when_dead AND job.attempts_ended > 0);
ALTER TABLE mq_heads DROP CONSTRAINT mq_heads_pkey, ADD CONSTRAINT mq_heads_pkey PRIMARY KEY (channel, id);

-- sql/tables/sleepers.sql
SELECT mq_create_with('r', relacl, relowner) FROM pg_class WHERE oid = 'mq_held'::regclass;
CREATE VIEW mq_sleeps_for AS
SELECT objid::integer AS key
FROM pg_locks
WHERE locktype = 'advisory' AND pid = pg_backend_pid()
  AND classid = 'mq_notified_until'::regclass::oid AND objsubid = 2;
COMMENT ON VIEW mq_sleeps_for IS 'Internal. The channel names, as their hashes (0: all), for which this session holds the lock that says that it is asleep.';

-- Small helpers

-- sql/internal/mq_is_acceptable.sql
SELECT mq_create_with('f', proacl, proowner) FROM pg_proc WHERE oid = 'mq_refuse(text, text, text, text)'::regprocedure;
-- Internal. Whether a job may be sent so; what is wrong, if not, mq_refuse_messages knows.
-- The body is parsed when it is created: it depends on no search_path, and is inlined.
CREATE FUNCTION mq_is_acceptable(
    id              uuid,
    delay           interval,
    retries         integer,
    retry_backoff   interval,
    channel_name    text,
    channel_args    text,
    commit_interval interval,
    ordered         boolean,
    name            text,
    priority        integer,
    when_dead       text
) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN id IS NOT NULL
    AND length(name) BETWEEN 1 AND 1000
    AND length(channel_name) <= 1000
    AND length(channel_args) <= 1000
    AND ordered IS NOT NULL
    AND delay >= interval '0' AND delay <= interval '1000 years'
    AND retries >= 0 AND retries <= 1000000000
    AND retry_backoff >= interval '0' AND retry_backoff <= interval '1000 years'
    AND (commit_interval IS NULL OR commit_interval BETWEEN interval '0' AND interval '1000 years')
    AND priority BETWEEN -32768 AND 32767
    AND when_dead IN ('hold', 'pass');
COMMENT ON FUNCTION mq_is_acceptable IS 'Internal. Whether a job may be sent with these arguments.';

-- sql/internal/mq_refuse_messages.sql
SELECT mq_create_with('f', proacl, proowner) FROM pg_proc WHERE oid = 'mq_refuse(text, text, text, text)'::regprocedure;
-- Internal. Which of the messages that mq_insert was given is wrong, and why.
-- Errors:  the first complaint, with the SQLSTATE and the name that mq_insert documents for it.
CREATE FUNCTION mq_refuse_messages(new_messages mq_new_t[], priorities integer[], when_dead text[]) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    bad     record;
    used_id uuid;
BEGIN
    SELECT n, complaint.* INTO bad
    FROM unnest(new_messages, priorities, when_dead) WITH ORDINALITY
             AS m (id, delay, retries, retry_backoff, channel_name, channel_args, commit_interval,
                   ordered, name, payload_json, payload_bytes, priority, when_dead_choice, n)
    CROSS JOIN LATERAL (
        SELECT code, argument, value, rule
        FROM (VALUES
            (m.id IS NULL, '22004', 'id', NULL, 'every job must have an id'),
            (m.name IS NULL, '22004', 'name', NULL, 'every job must have a name'),
            (m.channel_name IS NULL, '22004', 'channel_name', NULL, 'it must be given; the default channel is '''''),
            (m.channel_args IS NULL, '22004', 'channel_args', NULL, 'it must be given; without arguments it is '''''),
            (m.ordered IS NULL, '22004', 'ordered', NULL, 'it must be true or false'),
            (m.delay IS NULL, '22004', 'delay', NULL, 'it must be given; at once is 0'),
            (m.retries IS NULL, '22004', 'retries', NULL, 'it must be given'),
            (m.retry_backoff IS NULL, '22004', 'retry_backoff', NULL, 'it must be given'),
            (length(m.name) NOT BETWEEN 1 AND 1000, CASE m.name WHEN '' THEN '22023' ELSE '22001' END,
             'name', format('%L (%s characters)', left(m.name, 60), length(m.name)), 'it must have 1 to 1000 characters'),
            (length(m.channel_name) > 1000, '22001', 'channel_name',
             format('%L… (%s characters)', left(m.channel_name, 60), length(m.channel_name)), 'it may have at most 1000 characters'),
            (length(m.channel_args) > 1000, '22001', 'channel_args',
             format('%L… (%s characters)', left(m.channel_args, 60), length(m.channel_args)), 'it may have at most 1000 characters'),
            (m.delay < interval '0' OR m.delay > interval '1000 years', '22023', 'delay', m.delay::text,
             'it must be between 0 and 1000 years'),
            (m.retries NOT BETWEEN 0 AND 1000000000, '22003', 'retries', m.retries::text, 'it must be between 0 and 1000000000'),
            (m.retry_backoff < interval '0' OR m.retry_backoff > interval '1000 years', '22023', 'retry_backoff',
             m.retry_backoff::text, 'it must be between 0 and 1000 years'),
            (m.commit_interval < interval '0' OR m.commit_interval > interval '1000 years', '22023', 'commit_interval',
             m.commit_interval::text, 'it must be NULL or between 0 and 1000 years'),
            (m.priority IS NULL AND priorities IS NOT NULL, '22004', 'priority', NULL, 'it must be given; the default is 0'),
            (m.priority NOT BETWEEN -32768 AND 32767, '22003', 'priority', m.priority::text,
             'it must be between -32768 and 32767'),
            (when_dead IS NOT NULL AND coalesce(m.when_dead_choice, '') NOT IN ('hold', 'pass'),
             CASE WHEN m.when_dead_choice IS NULL THEN '22004' ELSE '22023' END,
             'when_dead', quote_literal(m.when_dead_choice), 'it must be ''hold'' or ''pass''')
        ) AS rules (is_broken, code, argument, value, rule)
        WHERE is_broken
        LIMIT 1
    ) AS complaint
    ORDER BY n
    LIMIT 1;
    IF FOUND THEN
        PERFORM mq_refuse(bad.code, CASE cardinality(new_messages)
            WHEN 1 THEN bad.argument ELSE format('%s of message %s', bad.argument, bad.n) END,
            bad.value, bad.rule);
    END IF;
    SELECT m.id INTO used_id FROM unnest(new_messages) AS m
    GROUP BY m.id HAVING count(*) > 1 OR (SELECT true FROM mq_msgs AS job WHERE job.id = m.id)
    LIMIT 1;
    PERFORM mq_refuse('23505', 'id', used_id::text, 'another job has this id');
END
$$;
COMMENT ON FUNCTION mq_refuse_messages IS 'Internal. Refuses the first of the messages that mq_insert cannot take.';

-- Epochs, against dead entries that cannot be cleaned away

-- sql/internal/mq_join_epoch.sql
-- Internal. The epoch in which this transaction issues tickets: the current one when it first asks, and
-- the same from then on, so that it holds no more than one epoch open, however long it takes.
-- Locks:   the epoch, shared, until the transaction ends: no poll takes it for finished before that.
CREATE OR REPLACE FUNCTION mq_join_epoch() RETURNS integer
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

-- sql/internal/mq_begin_epoch.sql
-- Internal. Lets a new epoch begin: what is sent from now on lies apart from the dead entries of before.
-- Not twice within a fiftieth of a second, so that polls that notice the same dead entries at the same time
-- begin one epoch, not one each; nor when there are many already.
CREATE OR REPLACE FUNCTION mq_begin_epoch(this_time bigint) RETURNS void
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

-- Who is to be notified

-- sql/internal/mq_somebody_may_sleep.sql
SELECT mq_create_with('f', proacl, proowner) FROM pg_proc WHERE oid = 'mq_refuse(text, text, text, text)'::regprocedure;
-- Internal. Whether somebody may be asleep who waits for jobs of this channel name. What mq_notify asks, as an
-- expression: the body is parsed when it is created, depends on no search_path, and is inlined.
CREATE FUNCTION mq_somebody_may_sleep(channel_name text) RETURNS boolean
LANGUAGE sql VOLATILE
RETURN coalesce(pg_catalog.pg_sequence_last_value('mq_notified_until'::regclass)
                    >= pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()), false)
    OR mq_somebody_holds('mq_notified_until'::regclass::oid::integer, pg_catalog.hashtext(channel_name))
    OR mq_somebody_holds('mq_notified_until'::regclass::oid::integer, 0);
COMMENT ON FUNCTION mq_somebody_may_sleep IS 'Internal. Whether somebody may be asleep who waits for jobs of this channel name.';

-- sql/internal/mq_notify.sql
-- Internal. Wakes the workers of these channel names, if any sleep, when the transaction commits; a name may
-- stand there several times. 'mq' is what workers of all channels listen on.
-- Called after something was written: who falls asleep meanwhile sees by this transaction's number that
-- it has to look again.
CREATE OR REPLACE FUNCTION mq_notify(channel_names text[]) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    class     CONSTANT integer := 'mq_notified_until'::regclass::oid::integer;
    is_always CONSTANT boolean := pg_sequence_last_value('mq_notified_until') >= date_part('epoch', clock_timestamp());
    one       text;
BEGIN
    IF cardinality(channel_names) > 1 THEN
        channel_names := ARRAY(SELECT DISTINCT c FROM unnest(channel_names) AS c);
    END IF;
    FOREACH one IN ARRAY channel_names LOOP
        IF is_always OR mq_somebody_holds(class, hashtext(one)) THEN
            PERFORM pg_notify(mq_notify_channel(one), '');
        END IF;
    END LOOP;
    IF channel_names <> '{}' AND (is_always OR mq_somebody_holds(class, 0)) THEN
        PERFORM pg_notify('mq', '');
    END IF;
END
$$;
COMMENT ON FUNCTION mq_notify IS 'Internal. Announces that jobs of these channel names may have become ready, if anybody may be asleep.';

-- sql/internal/mq_wake_up.sql
-- Internal. This session has work and polls again by itself: senders need not notify it.
CREATE OR REPLACE FUNCTION mq_wake_up() RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    class CONSTANT integer := 'mq_notified_until'::regclass::oid::integer;
BEGIN
    PERFORM pg_advisory_unlock_shared(class, key) FROM mq_sleeps_for;
    PERFORM set_config('sqlxmq.asleep', '', false);
END
$$;
COMMENT ON FUNCTION mq_wake_up IS 'Internal. Lets senders no longer notify this session.';

-- sql/internal/mq_fall_asleep.sql
-- Internal. This session has found nothing to do and waits to be notified; senders see that by its locks.
-- Arguments: looked_at, who was there when this poll began to look for jobs.
-- Returns: how soon it has to look again by itself. A sender that looked before the lock was there notifies
--          nobody, and commits when it likes: as long as a transaction is open that was so then, the
--          session looks again, at intervals that grow with the time it has slept. After that, every five
--          seconds: should it have been cut off without a sign, it holds no lock any more.
-- Locks:   an advisory lock, shared, of the session, for each channel name (0 stands for all of them),
--          until mq_wake_up.
CREATE OR REPLACE FUNCTION mq_fall_asleep(channel_names text[], looked_at pg_snapshot) RETURNS interval
LANGUAGE plpgsql
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    class     CONSTANT integer := 'mq_notified_until'::regclass::oid::integer;
    this_time CONSTANT bigint := (extract(epoch FROM clock_timestamp()) * 1000)::bigint;
    keys      CONSTANT integer[] := CASE WHEN channel_names IS NULL THEN ARRAY[0]
                                    ELSE ARRAY(SELECT DISTINCT hashtext(c) FROM unnest(channel_names) AS c ORDER BY 1) END;
    -- Since when, in milliseconds, and before which transaction; anybody can set it to anything.
    asleep    CONSTANT text := current_setting('sqlxmq.asleep', true);
BEGIN
    -- By the locks, not by the setting alone: a transaction that is rolled back undoes only that.
    IF coalesce(asleep, '') !~ '^[0-9]{1,18} [0-9]{1,18}$'
        OR keys <> ARRAY(SELECT key FROM mq_sleeps_for ORDER BY key) THEN
        PERFORM mq_wake_up();
        PERFORM pg_advisory_lock_shared(class, key) FROM unnest(keys) AS key;
        -- Whoever looked before the locks were there has a smaller number.
        PERFORM set_config('sqlxmq.asleep', concat_ws(' ', this_time, pg_current_xact_id()), false);
        RETURN interval '5 milliseconds';
    END IF;
    -- An older snapshot does not show who is there now.
    IF pg_snapshot_xmin(looked_at) >= split_part(asleep, ' ', 2)::xid8
        AND current_setting('transaction_isolation') = 'read committed' THEN
        RETURN interval '5 seconds';
    END IF;
    RETURN least(greatest(this_time - split_part(asleep, ' ', 1)::bigint, 10) / 2, 1000) * interval '1 millisecond';
END
$$;
COMMENT ON FUNCTION mq_fall_asleep IS 'Internal. Lets senders notify this session; says how soon it has to look again all the same.';

-- Strict order

-- sql/internal/mq_place_ordered.sql
SELECT mq_create_with('f', proacl, proowner) FROM pg_proc WHERE oid = 'mq_refuse(text, text, text, text)'::regprocedure;
-- Internal. Gives ordered jobs that were just written their places: the first of a channel that had none
-- becomes its head, the others are blocked behind it.
-- Arguments: ids, the jobs; opened, those of their channels that had no ordered jobs (mq_join_channels);
--          epoch, in which to issue tickets.
CREATE FUNCTION mq_place_ordered(ids uuid[], opened uuid[], epoch integer) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, @extschema@, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET jit = off
AS $$
#variable_conflict use_variable
BEGIN
    WITH placed AS MATERIALIZED (
        SELECT job.*, NOT (job.channel = ANY (opened) AND job.position = min(job.position) OVER (PARTITION BY job.channel)) AS is_blocked
        FROM unnest(ids) AS mine (id)
        CROSS JOIN LATERAL (
            SELECT sent.id, sent.channel, sent.position, sent.due_at, sent.reserved_until
            FROM mq_msgs AS sent WHERE sent.id = mine.id OFFSET 0) AS job
    ), head AS (
        INSERT INTO mq_heads (channel, id)
        SELECT placed.channel, placed.id FROM placed WHERE NOT is_blocked
    ), blocked AS (
        INSERT INTO mq_blocked (channel, position, id)
        SELECT placed.channel, placed.position, placed.id FROM placed WHERE is_blocked
    ), scheduled AS (
        -- A reservation has its end among the scheduled even while it is blocked, to expire in time.
        INSERT INTO mq_scheduled (due_at, id)
        SELECT coalesce(reserved_until, due_at), placed.id FROM placed
        WHERE reserved_until IS NOT NULL OR due_at IS NOT NULL AND NOT is_blocked
    )
    INSERT INTO mq_ready (channel, priority, position, id, epoch)
    SELECT placed.channel, 0, placed.position, placed.id, epoch FROM placed
    WHERE reserved_until IS NULL AND due_at IS NULL AND NOT is_blocked;
END
$$;
COMMENT ON FUNCTION mq_place_ordered IS 'Internal. Makes ordered jobs that were just written the heads of their channels, or blocks them behind these.';

-- sql/internal/mq_advance_channel.sql
-- Internal. The head of the channel's order is finished: it is the next one's turn.
-- It is looked for behind the finished one, since what lies before may be long dead and still have to be
-- stepped over; or from the beginning, where a job that had passed was given another try.
-- With nobody to be seen behind the head, or somebody whose row is locked (it is being cancelled, say),
-- the channel is left to the next poll (mq_settle_idle_channels).
-- mq_leave_channel does the same, for many channels in one statement, where the next job can simply run.
-- Locks:   the next job's ticket and row, without waiting.
CREATE OR REPLACE FUNCTION mq_advance_channel(finished mq_msgs) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, @extschema@, pg_temp
SET enable_seqscan = off
SET jit = off
AS $$
DECLARE
    after    CONSTANT bigint := CASE
        WHEN (SELECT chain.looks_back FROM mq_chains AS chain WHERE chain.channel = finished.channel) THEN 0
        ELSE finished.position
    END;
    place    bigint;
    next_id  uuid;
    job      mq_msgs;
    is_taken boolean;
BEGIN
    LOOP
        SELECT ticket.position, ticket.id INTO place, next_id FROM mq_blocked AS ticket
        WHERE ticket.channel = finished.channel AND ticket.position > after
        ORDER BY ticket.position LIMIT 1;
        IF FOUND THEN
            -- First the ticket, then the job: the order in which everybody takes them.
            PERFORM FROM mq_blocked WHERE channel = finished.channel AND position = place FOR UPDATE SKIP LOCKED;
        END IF;
        IF FOUND THEN
            SELECT * INTO job FROM mq_msgs WHERE id = next_id AND position = place FOR UPDATE SKIP LOCKED;
            is_taken := FOUND;
            IF NOT is_taken AND NOT EXISTS (SELECT FROM mq_msgs WHERE id = next_id AND position = place) THEN
                DELETE FROM mq_blocked WHERE channel = finished.channel AND position = place;
                CONTINUE;
            END IF;
        ELSE
            is_taken := false;
        END IF;
        IF NOT is_taken THEN
            INSERT INTO mq_idle_channels (channel) VALUES (finished.channel) ON CONFLICT DO NOTHING;
            EXIT;
        END IF;
        DELETE FROM mq_blocked WHERE channel = finished.channel AND position = place;
        IF job.cancel_requested_at IS NOT NULL OR job.reserved_until <= clock_timestamp() THEN
            DELETE FROM mq_scheduled WHERE due_at = job.reserved_until AND id = job.id;
            DELETE FROM mq_msgs WHERE id = job.id;
            CONTINUE;
        END IF;
        UPDATE mq_heads SET id = job.id WHERE channel = finished.channel AND id = finished.id;
        -- A reservation has had its ticket, among the scheduled, since it was sent.
        IF job.reserved_until IS NULL THEN
            PERFORM mq_issue_ticket(job);
        END IF;
        EXIT;
    END LOOP;
    PERFORM mq_notify(ARRAY[finished.channel_name]);
END
$$;
COMMENT ON FUNCTION mq_advance_channel IS 'Internal. Gives the turn to the job behind a finished ordered one.';

-- sql/internal/mq_leave_channel.sql
-- Internal. However ordered jobs leave the queue (completed, deleted, cancelled, cleared, expired, or
-- their rows deleted by hand), their channels go on. It fires once a statement, for all jobs that the
-- statement deleted: a batch gives all its turns away, and notifies, at once. A statement that deletes
-- none but unordered jobs pays for one look. It fires on DELETE only, so a restore does not meet it.
-- Locks:   the next jobs' tickets and rows, without waiting.
CREATE OR REPLACE FUNCTION mq_leave_channel() RETURNS trigger
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

DROP TRIGGER mq_leave_channel ON mq_msgs;
CREATE TRIGGER mq_leave_channel AFTER DELETE ON mq_msgs
REFERENCING OLD TABLE AS gone
FOR EACH STATEMENT
EXECUTE FUNCTION mq_leave_channel();
COMMENT ON TRIGGER mq_leave_channel ON mq_msgs IS 'Jobs have left the queue: behind the ordered ones, the next get their turn.';

-- sql/internal/mq_settle_idle_channels.sql
-- Internal. For channels whose head was finished with nobody seen behind it. With the channel's row
-- locked no sender is about to commit, so what is seen now is all there is: somebody's turn, or the
-- end of the channel. A channel whose row a sender holds is left for a later poll; that sender's
-- commit wakes one.
-- Locks:   the channels' rows, without waiting.
CREATE OR REPLACE FUNCTION mq_settle_idle_channels() RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, @extschema@, pg_temp
SET enable_seqscan = off
SET jit = off
AS $$
DECLARE
    idle     uuid;
    finished mq_msgs;
BEGIN
    FOR idle IN
        SELECT channel FROM mq_idle_channels ORDER BY channel LIMIT 100 FOR UPDATE SKIP LOCKED
    LOOP
        PERFORM FROM mq_chains WHERE channel = idle FOR UPDATE SKIP LOCKED;
        IF NOT FOUND THEN
            CONTINUE WHEN EXISTS (SELECT FROM mq_chains WHERE channel = idle);
            DELETE FROM mq_idle_channels WHERE channel = idle;
            CONTINUE;
        END IF;
        -- Somebody may have the turn already: a row that was left twice. Not so a head that passed
        -- when it died, dead still or retried and waiting for a new turn.
        PERFORM FROM mq_heads JOIN mq_msgs AS job ON job.id = mq_heads.id
        WHERE mq_heads.channel = idle
          AND NOT (job.died_at IS NOT NULL AND job.passes_when_dead)
          AND NOT EXISTS (SELECT FROM mq_blocked AS ticket
                          WHERE ticket.channel = job.channel AND ticket.position = job.position);
        IF FOUND THEN
            DELETE FROM mq_idle_channels WHERE channel = idle;
            CONTINUE;
        END IF;
        SELECT job.* INTO finished
        FROM mq_blocked AS ticket JOIN mq_msgs AS job ON job.id = ticket.id
        WHERE ticket.channel = idle
        ORDER BY ticket.position LIMIT 1;
        IF FOUND THEN
            DELETE FROM mq_idle_channels WHERE channel = idle;
            -- What is known of the one that is finished; the next is looked for from the beginning.
            finished.id := (SELECT head.id FROM mq_heads AS head WHERE head.channel = idle);
            finished.position := 0;
            PERFORM mq_advance_channel(finished);
        ELSIF current_setting('transaction_isolation') = 'read committed' THEN
            DELETE FROM mq_idle_channels WHERE channel = idle;
            DELETE FROM mq_heads WHERE channel = idle;
            DELETE FROM mq_chains WHERE channel = idle;
        END IF;
        -- Otherwise an older snapshot may hide a job sent meanwhile: a later poll decides.
    END LOOP;
END
$$;
COMMENT ON FUNCTION mq_settle_idle_channels IS 'Internal. Gives the turn in channels without a head, or closes them.';

-- Sending

-- sql/internal/mq_insert_one.sql
SELECT mq_create_with('f', proacl, proowner) FROM pg_proc WHERE oid = 'mq_refuse(text, text, text, text)'::regprocedure;
-- Internal. Sends one job without order that is acceptable and whose id is new. It does what mq_insert does, row by
-- row: most jobs are sent by themselves, and the start of a statement over many costs more than the rest.
-- Returns: the id.
CREATE FUNCTION mq_insert_one(
    id              uuid,
    delay           interval,
    retries         integer,
    retry_backoff   interval,
    channel_name    text,
    channel_args    text,
    commit_interval interval,
    name            text,
    payload_json    json,
    payload_bytes   bytea,
    priority        integer,
    when_dead       text
) RETURNS uuid
LANGUAGE plpgsql
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    this_moment    CONSTANT timestamptz := clock_timestamp();
    due_at         CONSTANT timestamptz := CASE WHEN delay > interval '0' THEN this_moment + delay END;
    reserved_until CONSTANT timestamptz := this_moment + delay + commit_interval;
    channel        CONSTANT uuid := mq_channel_key(channel_name, channel_args);
    place          CONSTANT bigint := nextval('mq_position');
    epoch          CONSTANT integer := mq_join_epoch();
BEGIN
    INSERT INTO mq_msgs (
        id, channel, position, created_at, due_at, reserved_until, retry_backoff,
        attempts_allowed, priority, ordered, passes_when_dead,
        channel_name, channel_args, name, payload_json, payload_bytes)
    VALUES (
        id, channel, place, this_moment, due_at, reserved_until, retry_backoff,
        retries + 1, priority, false, when_dead = 'pass',
        channel_name, channel_args, name, payload_json, payload_bytes);
    IF coalesce(reserved_until, due_at) IS NULL THEN
        INSERT INTO mq_ready (channel, priority, position, id, epoch) VALUES (channel, priority, place, id, epoch);
    ELSE
        INSERT INTO mq_scheduled (due_at, id) VALUES (coalesce(reserved_until, due_at), id);
    END IF;
    IF mq_somebody_may_sleep(channel_name) THEN
        PERFORM mq_notify(ARRAY[channel_name]);
    END IF;
    RETURN id;
END
$$;
COMMENT ON FUNCTION mq_insert_one IS 'Internal. Sends one job without order.';

-- sql/functions/mq_insert.sql
-- Purpose: send jobs, all or none.
-- Arguments: new_messages, the jobs; priorities (-32768 to 32767), when_dead ('hold' or 'pass') and
--          headers (a JSON object of strings, or NULL), each NULL or as long as new_messages, what
--          mq_new_t has no place for.
-- Returns: nothing.
-- Locks:   for ordered jobs, the order of their channels (other senders of ordered jobs to the same
--          channels wait until this transaction ends).
-- Errors:  22004 a value that must be given is NULL; 22003 a number is out of range; 22023 a value is
--          not allowed; 22001 a name is too long; 22P02 malformed JSON; 23505 the id is in use.
-- Callers: producer, operator.
CREATE OR REPLACE FUNCTION mq_insert(
    new_messages mq_new_t[],
    priorities   integer[] DEFAULT NULL,
    when_dead    text[] DEFAULT NULL,
    headers      text[] DEFAULT NULL
) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    this_moment   CONSTANT timestamptz := clock_timestamp();
    bad           record;
    one           mq_new_t;
    all_right     boolean;
    payloads      text[];
    channel_names text[];
    ordered_ids   uuid[];
    documents     json[];
    parsed        json[];
    opened        uuid[];
    epoch         integer;
BEGIN
    IF new_messages IS NULL THEN
        PERFORM mq_refuse('22004', 'new_messages', NULL, 'it must be an array of mq_new_t');
    ELSIF cardinality(priorities) <> cardinality(new_messages) THEN
        PERFORM mq_refuse('22023', 'priorities', format('of length %s', cardinality(priorities)),
            format('it must be NULL or as long as new_messages, %s', cardinality(new_messages)));
    ELSIF cardinality(when_dead) <> cardinality(new_messages) THEN
        PERFORM mq_refuse('22023', 'when_dead', format('of length %s', cardinality(when_dead)),
            format('it must be NULL or as long as new_messages, %s', cardinality(new_messages)));
    ELSIF cardinality(headers) <> cardinality(new_messages) THEN
        PERFORM mq_refuse('22023', 'headers', format('of length %s', cardinality(headers)),
            format('it must be NULL or as long as new_messages, %s', cardinality(new_messages)));
    ELSIF cardinality(new_messages) = 0 THEN
        RETURN;
    END IF;
    -- Most jobs come by themselves.
    IF array_dims(new_messages) = '[1:1]' AND headers IS NULL THEN
        one := new_messages[1];
        IF NOT one.ordered
            AND mq_is_acceptable(
                one.id, one.delay, one.retries, one.retry_backoff, one.channel_name, one.channel_args, one.commit_interval,
                one.ordered, one.name,
                CASE WHEN priorities IS NULL THEN 0 ELSE priorities[1] END,
                CASE WHEN when_dead IS NULL THEN 'hold' ELSE when_dead[1] END)
            AND (SELECT true FROM mq_msgs AS job WHERE job.id = one.id) IS NULL THEN
            one.id := mq_insert_one(
                one.id, one.delay, one.retries, one.retry_backoff, one.channel_name, one.channel_args, one.commit_interval,
                one.name, (mq_parse_json('payload_json', ARRAY[one.payload_json]))[1], one.payload_bytes,
                coalesce(priorities[1], 0), coalesce(when_dead[1], 'hold'));
            RETURN;
        END IF;
    END IF;

    -- One look at all of them. Which one is wrong, and how, is found out only where one is.
    SELECT bool_and(mq_is_acceptable(
               m.id, m.delay, m.retries, m.retry_backoff, m.channel_name, m.channel_args, m.commit_interval, m.ordered, m.name,
               CASE WHEN priorities IS NULL THEN 0 ELSE m.priority END,
               CASE WHEN when_dead IS NULL THEN 'hold' ELSE m.when_dead_choice END) IS TRUE
               AND (SELECT true FROM mq_msgs AS job WHERE job.id = m.id) IS NULL),
           array_agg(m.payload_json), array_agg(m.channel_name), array_agg(m.id) FILTER (WHERE m.ordered)
    INTO all_right, payloads, channel_names, ordered_ids
    FROM unnest(new_messages, priorities, when_dead)
             AS m (id, delay, retries, retry_backoff, channel_name, channel_args, commit_interval,
                   ordered, name, payload_json, payload_bytes, priority, when_dead_choice);
    IF all_right AND cardinality(new_messages) > 1 THEN
        all_right := (SELECT count(DISTINCT m.id) = count(*) FROM unnest(new_messages) AS m);
    END IF;
    IF NOT all_right THEN
        PERFORM mq_refuse_messages(new_messages, priorities, when_dead);
    END IF;

    documents := mq_parse_json('payload_json', payloads);
    IF headers IS NOT NULL THEN
        parsed := mq_parse_json('headers', headers);
        SELECT n, m.document::text AS value INTO bad
        FROM unnest(parsed) WITH ORDINALITY AS m (document, n)
        -- In CASE, since a document must be known to be an object before it is taken apart.
        WHERE CASE json_typeof(m.document)
            WHEN 'object' THEN EXISTS (SELECT FROM json_each(m.document) AS header WHERE json_typeof(header.value) <> 'string')
            ELSE m.document IS NOT NULL
        END
        LIMIT 1;
        IF FOUND THEN
            PERFORM mq_refuse('22023',
                CASE cardinality(headers) WHEN 1 THEN 'headers' ELSE format('headers of message %s', bad.n) END,
                quote_literal(left(bad.value, 100)), 'it must be a JSON object whose values are strings');
        END IF;
    END IF;

    IF ordered_ids IS NOT NULL THEN
        opened := mq_join_channels(ARRAY(
            SELECT mq_channel_key(m.channel_name, m.channel_args)
            FROM unnest(new_messages) AS m WHERE m.ordered));
    END IF;
    epoch := mq_join_epoch();
    WITH job AS (
        INSERT INTO mq_msgs AS job (
            id, channel, position, created_at, due_at, reserved_until, retry_backoff,
            attempts_allowed, priority, ordered, passes_when_dead,
            channel_name, channel_args, name, payload_json, payload_bytes, headers)
        SELECT
            m.id,
            mq_channel_key(m.channel_name, m.channel_args),
            nextval('mq_position'),
            this_moment,
            CASE WHEN m.delay > interval '0' THEN this_moment + m.delay END,
            this_moment + m.delay + m.commit_interval,
            m.retry_backoff,
            m.retries + 1,
            CASE WHEN m.ordered THEN 0 ELSE coalesce(m.priority, 0) END,
            m.ordered,
            coalesce(m.when_dead_choice = 'pass', false),
            m.channel_name, m.channel_args, m.name, m.document, m.payload_bytes, m.header
        FROM unnest(new_messages, documents, priorities, when_dead, parsed) WITH ORDINALITY
                 AS m (id, delay, retries, retry_backoff, channel_name, channel_args, commit_interval,
                       ordered, name, payload_json, payload_bytes, document, priority, when_dead_choice, header, n)
        ORDER BY n
        RETURNING job.id, job.channel, job.priority, job.position, job.ordered, coalesce(job.reserved_until, job.due_at) AS due_at
    ), scheduled AS (
        INSERT INTO mq_scheduled (due_at, id)
        SELECT due_at, id FROM job WHERE due_at IS NOT NULL AND NOT ordered
    )
    INSERT INTO mq_ready (channel, priority, position, id, epoch)
    SELECT channel, priority, position, id, epoch FROM job WHERE due_at IS NULL AND NOT ordered;
    IF ordered_ids IS NOT NULL THEN
        PERFORM mq_place_ordered(ordered_ids, opened, epoch);
    END IF;

    PERFORM mq_notify(channel_names);
END
$$;
COMMENT ON FUNCTION mq_insert IS 'Sends jobs, all or none.';

-- sql/functions/mq_enqueue.sql
-- Purpose: send one job; the function for people. Every argument but the name has a default.
-- Arguments: name, what the worker is to run; payload, its JSON; channel_name, channel_args, the
--          channel; delay, before it is due; retries, attempts after the first; retry_backoff, least
--          lease of the first attempt, doubling with each; ordered, strict order within the channel;
--          priority, -32768 to 32767, smaller first; commit_interval, reserve only (see mq_commit);
--          payload_bytes, a binary payload; when_dead, 'hold' or 'pass', what an ordered job does to
--          the ones behind it once it is dead; id, the caller's own id; headers, what travels beside
--          the payload, a JSON object of strings.
-- Returns: the job's id.
-- Locks:   for an ordered job, the order of its channel, until the transaction ends.
-- Errors:  those of mq_insert: 22004, 22003, 22023, 22001, 23505.
-- Callers: producer, operator.
CREATE OR REPLACE FUNCTION mq_enqueue(
    name            text,
    payload         jsonb DEFAULT NULL,
    channel_name    text DEFAULT '',
    channel_args    text DEFAULT '',
    delay           interval DEFAULT '0',
    retries         integer DEFAULT 4,
    retry_backoff   interval DEFAULT '1 second',
    ordered         boolean DEFAULT false,
    priority        integer DEFAULT 0,
    commit_interval interval DEFAULT NULL,
    payload_bytes   bytea DEFAULT NULL,
    when_dead       text DEFAULT 'hold',
    id              uuid DEFAULT NULL,
    headers         jsonb DEFAULT NULL
) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    new_id CONSTANT uuid := coalesce(id, mq_new_id());
BEGIN
    IF NOT ordered AND id IS NULL AND headers IS NULL
        AND mq_is_acceptable(new_id, delay, retries, retry_backoff, channel_name, channel_args, commit_interval,
                             ordered, name, priority, when_dead) THEN
        RETURN mq_insert_one(new_id, delay, retries, retry_backoff, channel_name, channel_args, commit_interval,
                             name, payload::text::json, payload_bytes, priority, when_dead);
    END IF;
    PERFORM mq_insert(
        ARRAY[ROW(new_id, delay, retries, retry_backoff, channel_name, channel_args,
                  commit_interval, ordered, name, payload::text, payload_bytes)::mq_new_t],
        ARRAY[priority],
        ARRAY[when_dead],
        CASE WHEN headers IS NOT NULL THEN ARRAY[headers::text] END);
    RETURN new_id;
END
$$;
COMMENT ON FUNCTION mq_enqueue IS 'Sends one job and returns its id.';

-- sql/functions/mq_enqueue_many.sql
-- Purpose: send many jobs in one call, all or none.
-- Arguments: names, what the worker is to run, one for each job; the others as in mq_enqueue, each NULL
--          (mq_enqueue's default for all jobs) or as long as names; a NULL element is that argument's
--          default, too. payloads and headers are JSON.
-- Returns: the jobs' ids, in the order of the names. No names: no rows.
-- Locks:   for ordered jobs, the order of their channels, until the transaction ends.
-- Errors:  22004 names is NULL or holds a NULL; 22023 an array is not as long as names; those of
--          mq_insert, which name the message by its number.
-- Callers: producer, operator.
CREATE OR REPLACE FUNCTION mq_enqueue_many(
    names            text[],
    payloads         text[] DEFAULT NULL,
    channel_names    text[] DEFAULT NULL,
    channel_args     text[] DEFAULT NULL,
    delays           interval[] DEFAULT NULL,
    retries          integer[] DEFAULT NULL,
    retry_backoffs   interval[] DEFAULT NULL,
    ordered          boolean[] DEFAULT NULL,
    priorities       integer[] DEFAULT NULL,
    commit_intervals interval[] DEFAULT NULL,
    payloads_bytes   bytea[] DEFAULT NULL,
    when_dead        text[] DEFAULT NULL,
    ids              uuid[] DEFAULT NULL,
    headers          text[] DEFAULT NULL
) RETURNS SETOF uuid
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    jobs    CONSTANT integer := cardinality(names);
    -- NULL for what is not given.
    lengths CONSTANT integer[] := ARRAY[
        cardinality(payloads), cardinality(channel_names), cardinality(channel_args), cardinality(delays),
        cardinality(retries), cardinality(retry_backoffs), cardinality(ordered), cardinality(priorities),
        cardinality(commit_intervals), cardinality(payloads_bytes), cardinality(when_dead), cardinality(ids),
        cardinality(headers)];
    bad     record;
    new_ids uuid[];
BEGIN
    IF names IS NULL THEN
        PERFORM mq_refuse('22004', 'names', NULL, 'it must be an array of job names');
    ELSIF array_ndims(names) > 1 THEN
        PERFORM mq_refuse('22023', 'names', names::text, 'it must have one dimension');
    ELSIF jobs <> ANY (lengths) THEN
        SELECT given.argument, given.length INTO bad
        FROM unnest('{payloads, channel_names, channel_args, delays, retries, retry_backoffs, ordered,
                      priorities, commit_intervals, payloads_bytes, when_dead, ids, headers}'::text[], lengths)
                 AS given (argument, length)
        WHERE given.length <> jobs
        LIMIT 1;
        PERFORM mq_refuse('22023', bad.argument, format('of length %s', bad.length),
            format('it must be NULL or as long as names, %s', jobs));
    END IF;

    IF jobs = 1 AND ids IS NULL THEN
        new_ids := ARRAY[mq_new_id()];
    ELSE
        new_ids := ARRAY(
            SELECT coalesce(job.id, mq_new_id())
            FROM unnest(names, ids) WITH ORDINALITY AS job (name, id, n) ORDER BY n);
    END IF;
    PERFORM mq_insert(
        -- mq_enqueue's defaults: tests/pgtap/sending_many.sql compares.
        ARRAY(
            SELECT ROW(job.id, coalesce(job.delay, '0'), coalesce(job.retries, 4), coalesce(job.retry_backoff, '1 second'),
                       coalesce(job.channel_name, ''), coalesce(job.channel_args, ''), job.commit_interval,
                       coalesce(job.ordered, false), job.name, job.payload, job.payload_bytes)::mq_new_t
            FROM unnest(names, new_ids, payloads, channel_names, channel_args, delays, retries, retry_backoffs,
                        ordered, commit_intervals, payloads_bytes) WITH ORDINALITY
                     AS job (name, id, payload, channel_name, channel_args, delay, retries, retry_backoff,
                             ordered, commit_interval, payload_bytes, n)
            ORDER BY n),
        array_replace(priorities, NULL, 0),
        array_replace(when_dead, NULL, 'hold'),
        headers);
    RETURN QUERY SELECT unnest(new_ids);
END
$$;
COMMENT ON FUNCTION mq_enqueue_many IS 'Sends many jobs, all or none, and returns their ids.';

-- Claiming

-- sql/internal/mq_take_back_expired.sql
-- Internal. Looks at claims whose deadline has passed: their jobs that still exist and are still at the
-- attempt of the claim are taken back, or, leased for longer, claimed on. It stops after ten claims, or
-- after the first with which it has looked at two hundred jobs, so that no poll has to do much of it.
-- Arguments: since, nothing earlier is looked for.
-- Locks:   the claims, then the jobs, without waiting: a job whose row somebody has locked or just changed
--          is being completed, failed or kept alive right now, and is looked at again a second later.
CREATE OR REPLACE FUNCTION mq_take_back_expired(since timestamptz, this_moment timestamptz) RETURNS void
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
    expired   mq_claims;
    one       record;
    job       mq_msgs;
    again     timestamptz;
    seen      integer := 0;
    ids       uuid[];
    positions bigint[];
    attempts  integer[];
BEGIN
    FOR number IN 1..10 LOOP
        DELETE FROM mq_claims WHERE ctid = (
            SELECT claim.ctid FROM mq_claims AS claim
            WHERE claim.deadline >= since AND claim.deadline <= this_moment
            ORDER BY claim.deadline LIMIT 1 FOR UPDATE SKIP LOCKED)
        RETURNING * INTO expired;
        EXIT WHEN NOT FOUND;
        since := expired.deadline;
        ids := '{}';
        positions := '{}';
        attempts := '{}';
        again := this_moment + interval '10 seconds';
        FOR one IN
            SELECT held.id, held.position, held.attempt, here.leased_until,
                   greatest(here.leased_until, expired.leased_until) AS until
            FROM unnest(expired.ids, expired.positions, expired.attempts) AS held (id, position, attempt)
            CROSS JOIN LATERAL (
                SELECT leased_until FROM mq_msgs
                WHERE id = held.id AND position = held.position AND attempts_ended = held.attempt - 1
                OFFSET 0) AS here
        LOOP
            -- Who is leased for longer needs no lock: should it be completed meanwhile, the next look finds that.
            IF one.until <= this_moment THEN
                -- The job as it was just seen, or not at all.
                SELECT * INTO job FROM mq_msgs
                WHERE id = one.id AND position = one.position AND attempts_ended = one.attempt - 1
                  AND leased_until IS NOT DISTINCT FROM one.leased_until
                FOR UPDATE SKIP LOCKED;
                IF FOUND THEN
                    PERFORM mq_end_attempt(
                        job,
                        format('The lease of attempt %s, held by %s, was over at %s.', one.attempt,
                               coalesce(nullif(expired.worker, ''), 'an unnamed worker'), one.until),
                        interval '0', true, false);
                    CONTINUE;
                END IF;
                one.until := this_moment + interval '1 second';
            END IF;
            ids := ids || one.id;
            positions := positions || one.position;
            attempts := attempts || one.attempt;
            again := least(again, one.until);
        END LOOP;
        IF cardinality(ids) > 0 THEN
            INSERT INTO mq_claims (deadline, claim, leased_until, ids, positions, attempts, worker)
            VALUES (again, nextval('mq_claim_number'), expired.leased_until, ids, positions, attempts, expired.worker);
        END IF;
        seen := seen + cardinality(expired.ids);
        EXIT WHEN seen >= 200;
    END LOOP;
END
$$;
COMMENT ON FUNCTION mq_take_back_expired IS 'Internal. Takes back the jobs whose leases are over.';

-- sql/internal/mq_release_due.sql
-- Internal. Jobs whose time has come become ready; reservations whose time is over disappear.
-- A ticket counts only if its time is the job's; others are left over and are dropped.
-- Arguments: since, nothing earlier is looked for; most_jobs, how many at most.
-- Returns: how many tickets it has met.
-- Locks:   the tickets, and reserved jobs, without waiting: a reservation whose row is locked is
--          being committed, kept alive or cancelled right now.
CREATE OR REPLACE FUNCTION mq_release_due(since timestamptz, this_moment timestamptz, most_jobs integer) RETURNS integer
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
    tickets  integer;
    reserved uuid[];
    over     mq_msgs;
    epoch    CONSTANT integer := mq_join_epoch();
BEGIN
    WITH due AS (
        DELETE FROM mq_scheduled WHERE ctid = ANY (ARRAY(
            SELECT ticket.ctid FROM mq_scheduled AS ticket
            WHERE ticket.due_at >= since AND ticket.due_at <= this_moment
            ORDER BY ticket.due_at LIMIT most_jobs FOR UPDATE SKIP LOCKED))
        RETURNING due_at, id
    ), job AS MATERIALIZED (
        SELECT job.* FROM due CROSS JOIN LATERAL (
            SELECT id, channel, priority, position, reserved_until FROM mq_msgs
            WHERE id = due.id AND coalesce(reserved_until, due_at) = due.due_at
            OFFSET 0) AS job
    ), ready AS (
        INSERT INTO mq_ready (channel, priority, position, id, epoch)
        SELECT channel, priority, position, id, epoch FROM job WHERE reserved_until IS NULL
        ON CONFLICT DO NOTHING
    )
    SELECT (SELECT count(*)::integer FROM due), array_agg(id) INTO tickets, reserved FROM job WHERE reserved_until IS NOT NULL;

    IF reserved IS NULL THEN
        RETURN tickets;
    END IF;
    FOR over IN
        SELECT * FROM mq_msgs WHERE id = ANY (reserved) AND reserved_until <= this_moment
        ORDER BY id FOR UPDATE SKIP LOCKED
    LOOP
        DELETE FROM mq_msgs WHERE id = over.id;
        reserved := array_remove(reserved, over.id);
    END LOOP;
    -- Whoever holds the others' rows needs to find their tickets, unless he has moved them.
    INSERT INTO mq_scheduled (due_at, id)
    SELECT job.reserved_until, job.id FROM mq_msgs AS job
    WHERE job.id = ANY (reserved) AND job.reserved_until <= this_moment
    ON CONFLICT DO NOTHING;
    RETURN tickets;
END
$$;
COMMENT ON FUNCTION mq_release_due IS 'Internal. Makes due jobs ready and drops the reservations that are over.';

-- sql/functions/mq_poll.sql
-- Purpose: claim jobs that can run now; each is held by the caller until its lease is over.
-- Arguments: channel_names, whose jobs to claim (NULL: all); batch_size, how many at most (1 to
--          10000); lease, the least time for which to hold them (NULL: each job's backoff decides);
--          worker, a name to show who holds them (NULL: the session's application_name);
--          notify_me, when NOTIFY is to announce new jobs to this session: 'always'; 'asleep', only after
--          a poll of this session that found nothing, until one that finds some, which spares senders
--          most of it (poll again after the wait_time, in a session that lasts); 'never'.
-- Returns: a row for each claimed job, smallest priority first; attempt is the fence to pass to
--          mq_complete, mq_fail and the others; is_committed is always true (reservations are not handed
--          out); wait_time is 0 (with notify_me 'asleep', where fewer than asked for were to be had: how
--          soon to poll again, since nobody notifies before that poll has found nothing). With nothing to
--          claim, one row of NULLs whose wait_time says how long until something may be due (NULL: nothing
--          is scheduled).
-- Fairness: channels (name and arguments) take turns. The session goes round them from where its
--          last poll left off (the setting sqlxmq.ring_position), and takes an equal share of each.
-- Locks:   the claimed jobs' tickets, never waiting for another poll.
-- Errors:  22023 or 22004 for a bad argument.
-- Callers: worker, operator.
CREATE OR REPLACE FUNCTION mq_poll(
    channel_names text[],
    batch_size    integer DEFAULT 1,
    lease         interval DEFAULT NULL,
    worker        text DEFAULT NULL,
    notify_me     text DEFAULT 'always'
) RETURNS TABLE (
    id               uuid,
    is_committed     boolean,
    name             text,
    payload_json     text,
    payload_bytes    bytea,
    retry_backoff    interval,
    wait_time        interval,
    attempt          integer,
    attempts_allowed integer,
    channel_name     text,
    channel_args     text,
    leased_until     timestamptz,
    headers          text
)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET enable_bitmapscan = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    looked_at       CONSTANT pg_snapshot := pg_current_snapshot();
    this_moment     CONSTANT timestamptz := clock_timestamp();
    this_time       CONSTANT bigint := (extract(epoch FROM this_moment) * 1000000)::bigint;
    first_key       CONSTANT uuid := '00000000-0000-0000-0000-000000000000'::uuid;
    last_key        CONSTANT uuid := 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid;
    -- In this order, here and below: the first may follow the current one at any time, and must not be later.
    first_epoch     integer := coalesce(pg_sequence_last_value('mq_first_epoch'), 1)::integer;
    current_epoch   integer := coalesce(pg_sequence_last_value('mq_epoch'), 1)::integer;
    scheduled_mark  CONSTANT bigint := coalesce(pg_sequence_last_value('mq_scheduled_mark'), 0);
    claims_mark     CONSTANT bigint := coalesce(pg_sequence_last_value('mq_claims_mark'), 0);
    epochs          integer[];
    this_epoch      integer;
    trusts_marks    boolean := true;
    stepped_over    bigint;
    next_due        timestamptz;
    next_deadline   timestamptz;
    any_idle        boolean;
    any_late        boolean;
    ring_position   uuid;
    arcs_after      uuid[];
    arcs_upto       uuid[];
    still_wanted    integer := batch_size;
    channels_seen   bigint;
    last_channel    uuid;
    claimed_ids     uuid[];
    claimed_places  bigint[];
    met_others      boolean := false;
    released        integer := 0;
    most_released   CONSTANT integer := greatest(100, 4 * least(batch_size, 250));
    claimed_count   integer;
BEGIN
    IF batch_size IS NULL OR batch_size NOT BETWEEN 1 AND 10000 THEN
        PERFORM mq_refuse(CASE WHEN batch_size IS NULL THEN '22004' ELSE '22023' END,
            'batch_size', batch_size::text, 'it must be between 1 and 10000');
    ELSIF lease < interval '0' OR lease > interval '1000 years' THEN
        PERFORM mq_refuse('22023', 'lease', lease::text, 'it must be NULL or between 0 and 1000 years');
    ELSIF notify_me IS NULL OR notify_me NOT IN ('always', 'asleep', 'never') THEN
        PERFORM mq_refuse(CASE WHEN notify_me IS NULL THEN '22004' ELSE '22023' END,
            'notify_me', quote_literal(notify_me), 'it must be ''always'', ''asleep'' or ''never''');
    END IF;
    IF channel_names IS NOT NULL THEN
        PERFORM mq_check_channel_names(channel_names);
    END IF;
    -- Anybody can set it to anything: then begin somewhere.
    ring_position := CASE
        WHEN current_setting('sqlxmq.ring_position', true) ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
            THEN current_setting('sqlxmq.ring_position', true)::uuid
        ELSE gen_random_uuid()
    END;

    IF first_epoch > current_epoch THEN
        -- Data alone were restored into a queue that had been in use.
        PERFORM setval('mq_first_epoch', 1);
        first_epoch := 1;
    END IF;
    -- Housekeeping: one probe each when there is none to do. The marks say from where on to look, and are
    -- distrusted now and then.
    IF scheduled_mark > 0 OR claims_mark > 0 THEN
        trusts_marks := this_time < coalesce(pg_sequence_last_value('mq_look_again_at'), 0);
    END IF;
    stepped_over := -pg_stat_get_xact_tuples_returned('mq_scheduled_pkey'::regclass)
                    -pg_stat_get_xact_tuples_returned('mq_claims_pkey'::regclass);
    SELECT (SELECT due_at FROM mq_scheduled
            WHERE due_at >= to_timestamp(CASE WHEN trusts_marks THEN scheduled_mark / 1e6 ELSE 0 END) ORDER BY due_at LIMIT 1),
           (SELECT deadline FROM mq_claims
            WHERE deadline >= to_timestamp(CASE WHEN trusts_marks THEN claims_mark / 1e6 ELSE 0 END) ORDER BY deadline LIMIT 1),
           (SELECT true FROM mq_idle_channels ORDER BY channel LIMIT 1),
           (SELECT true FROM mq_late_epochs ORDER BY epoch LIMIT 1)
    INTO next_due, next_deadline, any_idle, any_late;
    stepped_over := stepped_over
                    + pg_stat_get_xact_tuples_returned('mq_scheduled_pkey'::regclass)
                    + pg_stat_get_xact_tuples_returned('mq_claims_pkey'::regclass);
    IF (first_epoch < current_epoch OR any_late)
        AND this_time >= coalesce(pg_sequence_last_value('mq_tend_again_at'), 0) THEN
        PERFORM mq_tend_epochs();
        first_epoch := coalesce(pg_sequence_last_value('mq_first_epoch'), 1)::integer;
        current_epoch := coalesce(pg_sequence_last_value('mq_epoch'), 1)::integer;
    END IF;
    IF stepped_over > 100 OR NOT trusts_marks THEN
        PERFORM mq_set_marks(this_moment, next_due, next_deadline, stepped_over > 100, NOT trusts_marks);
    END IF;
    IF next_deadline <= this_moment THEN
        PERFORM mq_take_back_expired(next_deadline, this_moment);
    END IF;
    IF next_due <= this_moment THEN
        released := mq_release_due(next_due, this_moment, most_released);
    END IF;
    IF any_idle THEN
        PERFORM mq_settle_idle_channels();
    END IF;

    -- Several epochs take turns, the oldest one every other time; what it does not give the others may.
    IF first_epoch = current_epoch THEN
        epochs := ARRAY[current_epoch];
    ELSE
        this_epoch := first_epoch + CASE WHEN random() < 0.5 THEN 0 ELSE floor(random() * (current_epoch - first_epoch + 1))::integer END;
        epochs := ARRAY(SELECT one FROM generate_series(first_epoch, current_epoch) AS one ORDER BY one <> this_epoch, one);
    END IF;
    FOREACH this_epoch IN ARRAY epochs LOOP
        -- Each round walks the ring from its position, one probe a channel. A second round is needed only
        -- when shares were left unused by some channels and others have more, or when other polls were
        -- just taking what this one met. Twenty rounds bound the work of one poll.
        FOR round IN 1..20 LOOP
            -- The parts of the ring to walk: after … up to, in turn.
            IF channel_names IS NULL THEN
                arcs_after := ARRAY[ring_position, first_key];
                arcs_upto := ARRAY[last_key, ring_position];
            ELSE
                SELECT array_agg(part.after ORDER BY part.turn, part.after),
                       array_agg(part.upto ORDER BY part.turn, part.after)
                INTO arcs_after, arcs_upto
                FROM (SELECT DISTINCT
                          overlay(arc::text PLACING '0000-000000000000' FROM 20)::uuid AS lowest,
                          overlay(arc::text PLACING 'ffff-ffffffffffff' FROM 20)::uuid AS highest
                      FROM unnest(channel_names) AS wanted (channel_name),
                           mq_channel_key(wanted.channel_name, '') AS arc) AS arcs
                CROSS JOIN LATERAL (VALUES
                    (1, greatest(lowest, ring_position), highest),
                    (2, lowest, least(highest, ring_position))
                ) AS part (turn, after, upto)
                WHERE part.after < part.upto;
            END IF;

            stepped_over := -pg_stat_get_xact_tuples_returned('mq_ready_pkey'::regclass);
            WITH RECURSIVE walk AS (
                SELECT 1 AS arc, arcs_after[1] AS channel, NULL::smallint AS priority, NULL::bigint AS position
                UNION ALL
                SELECT CASE WHEN met.channel IS NULL THEN walk.arc + 1 ELSE walk.arc END,
                       coalesce(met.channel, arcs_after[walk.arc + 1]),
                       met.priority, met.position
                FROM walk LEFT JOIN LATERAL (
                    SELECT ticket.channel, ticket.priority, ticket.position FROM mq_ready AS ticket
                    WHERE ticket.epoch = this_epoch
                      AND ticket.channel > walk.channel AND ticket.channel <= arcs_upto[walk.arc]
                    ORDER BY ticket.channel, ticket.priority, ticket.position LIMIT 1) AS met ON true
                WHERE walk.channel IS NOT NULL
            ), seen AS MATERIALIZED (
                SELECT walk.channel, walk.priority, walk.position FROM walk
                WHERE walk.position IS NOT NULL LIMIT still_wanted
            ), taken AS (
                DELETE FROM mq_ready WHERE ctid = ANY (ARRAY(
                    SELECT mine.ctid FROM seen CROSS JOIN LATERAL (
                        -- From the one that the walk has met: what lies before it is dead.
                        SELECT ticket.ctid FROM mq_ready AS ticket
                        WHERE ticket.epoch = this_epoch AND ticket.channel = seen.channel
                          AND (ticket.priority, ticket.position) >= (seen.priority, seen.position)
                        ORDER BY ticket.priority, ticket.position
                        LIMIT (SELECT ceil(still_wanted::float8 / count(*)) FROM seen)
                        FOR UPDATE SKIP LOCKED) AS mine
                    LIMIT still_wanted))
                RETURNING id, priority, position
            )
            SELECT array_agg(id ORDER BY priority, position),
                   array_agg(position ORDER BY priority, position),
                   (SELECT count(*) FROM seen),
                   (SELECT (array_agg(seen.channel))[count(*)] FROM seen)
            INTO claimed_ids, claimed_places, channels_seen, last_channel
            FROM taken;
            -- Each job that is taken should cost a few steps, not dozens. Steps in an old epoch are no reason
            -- for a new one: no more comes there, and each epoch that is open makes completion slower.
            stepped_over := stepped_over + pg_stat_get_xact_tuples_returned('mq_ready_pkey'::regclass);
            IF this_epoch = current_epoch AND stepped_over > 200 + 8 * still_wanted THEN
                PERFORM mq_begin_epoch(this_time);
            END IF;
            IF channels_seen = 0 AND this_epoch < current_epoch AND channel_names IS NULL THEN
                -- Nothing seems to be left there.
                PERFORM setval('mq_tend_again_at', 0);
            END IF;
            EXIT WHEN channels_seen = 0;
            ring_position := last_channel;
            met_others := met_others OR claimed_ids IS NULL;

            claimed_count := 0;
            IF claimed_ids IS NOT NULL THEN
                RETURN QUERY
                WITH job AS MATERIALIZED (
                    SELECT job.id, job.position, job.name, job.payload_json, job.payload_bytes, job.retry_backoff,
                           job.attempts_ended + 1 AS attempt, job.attempts_allowed, job.channel_name,
                           job.channel_args, job.headers, job.cancel_requested_at,
                           this_moment + greatest(job.retry_backoff, lease) AS deadline, n
                    FROM unnest(claimed_ids, claimed_places) WITH ORDINALITY AS mine (id, position, n)
                    JOIN mq_msgs AS job ON job.id = mine.id AND job.position = mine.position
                ), claim AS (
                    INSERT INTO mq_claims (deadline, claim, leased_until, ids, positions, attempts, worker)
                    SELECT least(job.deadline, this_moment + interval '10 seconds'), nextval('mq_claim_number'),
                           job.deadline, array_agg(job.id), array_agg(job.position), array_agg(job.attempt),
                           coalesce(worker, current_setting('application_name'))
                    FROM job GROUP BY job.deadline
                )
                -- A job that was cancelled while its ticket moved is not handed out; when its claim is
                -- over, it is removed.
                SELECT job.id, true, job.name, job.payload_json::text, job.payload_bytes, job.retry_backoff,
                       CASE WHEN notify_me = 'asleep' AND (SELECT count(*) FROM job) < still_wanted
                           THEN interval '5 milliseconds' ELSE interval '0' END,
                       job.attempt, job.attempts_allowed, job.channel_name, job.channel_args,
                       job.deadline, job.headers::text
                FROM job WHERE job.cancel_requested_at IS NULL
                ORDER BY n;
                GET DIAGNOSTICS claimed_count = ROW_COUNT;
                still_wanted := still_wanted - claimed_count;
            END IF;
            -- Done, or the ring was gone round and no channel gave its whole share.
            EXIT WHEN still_wanted <= 0
                OR channels_seen < still_wanted + claimed_count
                   AND coalesce(cardinality(claimed_ids), 0) < ceil((still_wanted + claimed_count)::float8 / channels_seen);
        END LOOP;
        EXIT WHEN still_wanted <= 0;
    END LOOP;
    PERFORM set_config('sqlxmq.ring_position', ring_position::text, false);

    IF still_wanted < batch_size THEN
        IF current_setting('sqlxmq.asleep', true) <> '' THEN
            PERFORM mq_wake_up();
        END IF;
        RETURN;
    END IF;

    PERFORM mq_forget_dead(100);
    SELECT least((SELECT due_at FROM mq_scheduled WHERE due_at >= to_timestamp(scheduled_mark / 1e6) ORDER BY due_at LIMIT 1),
                 (SELECT deadline FROM mq_claims WHERE deadline >= to_timestamp(claims_mark / 1e6) ORDER BY deadline LIMIT 1),
                 (SELECT this_moment + interval '1 second' FROM mq_idle_channels ORDER BY channel LIMIT 1),
                 -- What somebody commits late, before a mark or in an old epoch, is only found by looking.
                 CASE WHEN any_late OR scheduled_mark > 0 OR claims_mark > 0 THEN this_moment + interval '1 second' END)
    INTO next_due;
    IF next_due IS NOT NULL THEN
        wait_time := CASE
            WHEN next_due > this_moment OR released = most_released
                THEN greatest(next_due - clock_timestamp(), interval '1 millisecond')
            -- What is overdue is in somebody else's hands, perhaps for long.
            ELSE interval '0.5 seconds'
        END;
    END IF;
    IF met_others THEN
        -- Other polls were just taking what was ready; should they not commit, it still is.
        wait_time := least(wait_time, interval '0.1 seconds');
    END IF;
    IF notify_me = 'asleep' THEN
        wait_time := least(wait_time, mq_fall_asleep(channel_names, looked_at));
    ELSIF notify_me = 'always' THEN
        wait_time := least(wait_time, mq_notify_until(this_moment + coalesce(wait_time, interval '1 minute'), looked_at));
    END IF;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION mq_poll IS 'Claims jobs that can run now, in fair turns over the channels.';

-- Operating

-- sql/functions/mq_retry.sql
-- Purpose: give dead jobs another try. Attempt numbers go on from where they were.
-- Arguments: msg_ids; retries, attempts after the first new one (0 to 1000000); delay, until it is due.
-- Returns: the ids that were dead and wait again now; others are passed over.
-- Locks:   the jobs' rows; for ordered jobs that let others pass, the order of their channels.
-- Errors:  22004, 22003, 22023 for bad arguments.
-- Callers: operator.
CREATE OR REPLACE FUNCTION mq_retry(
    msg_ids uuid[],
    retries integer DEFAULT 0,
    delay   interval DEFAULT '0'
) RETURNS SETOF uuid
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
    job           mq_msgs;
    channel_names text[] := ARRAY[]::text[];
    opened        uuid[];
BEGIN
    PERFORM mq_check_ids(msg_ids, NULL, false);
    IF retries IS NULL OR retries NOT BETWEEN 0 AND 1000000 THEN
        PERFORM mq_refuse(CASE WHEN retries IS NULL THEN '22004' ELSE '22003' END,
            'retries', retries::text, 'it must be between 0 and 1000000');
    ELSIF delay IS NULL OR delay < interval '0' OR delay > interval '1000 years' THEN
        PERFORM mq_refuse(CASE WHEN delay IS NULL THEN '22004' ELSE '22023' END,
            'delay', delay::text, 'it must be between 0 and 1000 years');
    END IF;
    -- First the channels' order, all at once, then the jobs: so does every sender.
    opened := mq_join_channels(ARRAY(
        SELECT channel FROM mq_msgs
        WHERE id = ANY (msg_ids) AND died_at IS NOT NULL AND ordered AND passes_when_dead));
    FOR job IN SELECT * FROM mq_msgs WHERE id = ANY (msg_ids) AND died_at IS NOT NULL ORDER BY position FOR UPDATE LOOP
        DELETE FROM mq_dead WHERE died_at = job.died_at AND id = job.id;
        UPDATE mq_msgs SET
            attempts_allowed = attempts_ended + 1 + retries,
            died_at = NULL,
            cancel_requested_at = NULL,
            due_at = CASE WHEN delay > interval '0' THEN clock_timestamp() + delay END
        WHERE id = job.id
        RETURNING * INTO job;
        -- One that let others pass has lost its turn: it is the next again, by its position.
        IF job.ordered AND job.passes_when_dead THEN
            IF job.channel = ANY (opened) THEN
                opened := array_remove(opened, job.channel);
                INSERT INTO mq_heads (channel, id) VALUES (job.channel, job.id);
                PERFORM mq_issue_ticket(job);
            ELSE
                INSERT INTO mq_blocked (channel, position, id) VALUES (job.channel, job.position, job.id);
                UPDATE mq_chains SET looks_back = true WHERE channel = job.channel AND NOT looks_back;
            END IF;
        ELSE
            PERFORM mq_issue_ticket(job);
        END IF;
        channel_names := channel_names || job.channel_name;
        RETURN NEXT job.id;
    END LOOP;
    PERFORM mq_notify(channel_names);
END
$$;
COMMENT ON FUNCTION mq_retry IS 'Gives dead jobs new attempts; returns the ids that were dead.';

-- sql/functions/mq_version.sql
-- Purpose: which version of the queue's SQL this is.
-- Returns: the version, as in the extension's control file.
-- Locks:   none.
-- Errors:  none.
-- Callers: producer, worker, observer, operator.
CREATE OR REPLACE FUNCTION mq_version() RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN '0.4.0'::text;
COMMENT ON FUNCTION mq_version IS 'The version of this queue''s SQL.';

SELECT mq_create_with(kind::"char", current_setting('sqlxmq.default_' || kind)::aclitem[], role.oid)
FROM pg_roles AS role CROSS JOIN unnest(ARRAY['f', 'r', 'S']) AS kind
WHERE role.rolname = current_user;
DROP FUNCTION mq_create_with("char", aclitem[], oid);

-- A superuser may have run this: the functions must not run with his rights, but with the owner's.
DO $$
DECLARE
    the_owner CONSTANT oid := (SELECT relowner FROM pg_class WHERE oid = 'mq_msgs'::regclass);
    one       record;
BEGIN
    FOR one IN
        SELECT 'FUNCTION' AS kind, oid::regprocedure::text AS object FROM pg_proc
        WHERE pronamespace = '@extschema@'::regnamespace AND proname LIKE 'mq\_%' AND proowner <> the_owner
        UNION ALL
        SELECT CASE relkind WHEN 'v' THEN 'VIEW' WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, oid::regclass::text FROM pg_class
        WHERE relnamespace = '@extschema@'::regnamespace AND relname LIKE 'mq\_%' AND relkind IN ('v', 'S', 'r')
          AND relowner <> the_owner
    LOOP
        EXECUTE format('ALTER %s %s OWNER TO %s', one.kind, one.object, the_owner::regrole);
    END LOOP;
END
$$;
