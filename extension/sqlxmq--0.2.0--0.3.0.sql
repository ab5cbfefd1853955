\echo Use "ALTER EXTENSION sqlxmq UPDATE" to load this file. \quit

-- From 0.2.0 to 0.3.0: what CREATE EXTENSION makes of 0.3.0, with the jobs and the rights that are there.

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
            -- The tables under the views are locked along with them, mq_ready among them.
            LOCK TABLE mq_held, mq_jobs IN ACCESS EXCLUSIVE MODE;
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

-- Tables

-- sql/tables/tickets.sql
-- The tickets that are there are of the first epoch.
ALTER TABLE mq_ready ADD COLUMN epoch integer NOT NULL DEFAULT 1;
ALTER TABLE mq_ready DROP CONSTRAINT mq_ready_pkey, ADD CONSTRAINT mq_ready_pkey PRIMARY KEY (epoch, channel, priority, position);
COMMENT ON COLUMN mq_ready.epoch IS 'The epoch in which the ticket was issued (mq_epoch), or into which it was carried over.';

-- sql/tables/epochs.sql
SELECT mq_create_with('S', relacl, relowner) FROM pg_class WHERE oid = 'mq_position'::regclass;
-- A claimed ticket leaves a dead entry in the index of mq_ready. As long as some old snapshot might still
-- look at it (a report, an idle transaction, a replica), it cannot be cleaned away, and every poll that
-- comes to that place has to step over it. So when polls notice that they step over many, a new epoch
-- begins: tickets are issued with its number, which is the first column of the key, and once nothing is
-- left in the older epochs, polls look at them no more. While nothing holds dead entries back, one epoch
-- lasts for ever.
--
-- What changes often is kept in sequences: they are updated in place, and leave nothing dead behind.
-- They are not transactional, therefore: whoever sets one has to be right even if he rolls back.
--
-- A sender that is in flight may yet bring tickets of the epoch in which it began. It holds a shared
-- advisory lock on that epoch until it ends (mq_join_epoch); an epoch without such locks is closed.
CREATE SEQUENCE mq_epoch AS integer;
COMMENT ON SEQUENCE mq_epoch IS 'The epoch in which tickets are issued.';

CREATE SEQUENCE mq_epoch_began_at MINVALUE 0 START 0;
COMMENT ON SEQUENCE mq_epoch_began_at IS 'When that epoch began, in microseconds since 1970. Not dumped.';

CREATE SEQUENCE mq_first_epoch AS integer;
COMMENT ON SEQUENCE mq_first_epoch IS 'The first epoch that polls look at. Not dumped: a restored queue finds it anew.';

CREATE SEQUENCE mq_tend_again_at MINVALUE 0 START 0;
COMMENT ON SEQUENCE mq_tend_again_at IS 'When a poll is to tend the epochs next, in microseconds since 1970. Not dumped.';

SELECT mq_create_with('r', relacl, relowner) FROM pg_class WHERE oid = 'mq_idle_channels'::regclass;
CREATE TABLE mq_late_epochs (
    epoch integer PRIMARY KEY
);
COMMENT ON TABLE mq_late_epochs IS 'Epochs before mq_first_epoch which some open transaction holds on to; what it leaves there is carried over to the current one.';
COMMENT ON COLUMN mq_late_epochs.epoch IS 'The epoch.';

SELECT mq_create_with('r', relacl, relowner) FROM pg_class WHERE oid = 'mq_held'::regclass;
CREATE VIEW mq_open_epochs AS
SELECT generate_series((SELECT last_value FROM mq_first_epoch), (SELECT last_value FROM mq_epoch))::integer AS epoch
UNION ALL
SELECT epoch FROM mq_late_epochs;
COMMENT ON VIEW mq_open_epochs IS 'Internal. The epochs in which tickets may lie.';

-- The same for what waits for a time: a poll looks for the earliest, and would step over all that was
-- earlier and is gone. These marks say from where on to look. They are hints: somebody may yet commit
-- something earlier, so polls look from the very beginning now and then, never for more than a
-- twentieth of the time.
CREATE SEQUENCE mq_scheduled_mark MINVALUE 0 START 0;
COMMENT ON SEQUENCE mq_scheduled_mark IS 'Nothing before this time was seen in mq_scheduled, in microseconds since 1970; 0: not in use. Not dumped.';

CREATE SEQUENCE mq_claims_mark MINVALUE 0 START 0;
COMMENT ON SEQUENCE mq_claims_mark IS 'Nothing before this time was seen in mq_claims, in microseconds since 1970; 0: not in use. Not dumped.';

CREATE SEQUENCE mq_look_again_at MINVALUE 0 START 0;
COMMENT ON SEQUENCE mq_look_again_at IS 'When a poll is to distrust the marks next, in microseconds since 1970. Not dumped.';

-- sql/tables/sleepers.sql
SELECT mq_create_with('S', relacl, relowner) FROM pg_class WHERE oid = 'mq_position'::regclass;
-- NOTIFY makes senders commit one after the other, so it is sent only to who may be asleep. A session that
-- polls with notify_me => 'asleep' holds an advisory lock for each of its channel names from a poll that
-- found nothing until one that found something. Of the others, clients of the sqlxmq crate among them, it
-- is known only until when the last of them may sleep.
CREATE SEQUENCE mq_notified_until MINVALUE 0 START 0;
COMMENT ON SEQUENCE mq_notified_until IS 'Until then somebody may sleep who does not say when he wakes up, and every send notifies, in seconds since 1970. Not dumped.';

CREATE SEQUENCE mq_notified_since MINVALUE 0 START 0;
COMMENT ON SEQUENCE mq_notified_since IS 'Number of the transaction before which a sender may have seen nobody whom that time is for. Not dumped.';

-- Who sleeps now has said nothing of it to 0.2.0, and counts on being notified: every send notifies for a day.
SELECT setval('mq_notified_until', extract(epoch FROM clock_timestamp() + interval '1 day')::bigint);

-- Small helpers

-- sql/internal/mq_somebody_holds.sql
SELECT mq_create_with('f', proacl, proowner) FROM pg_proc WHERE oid = 'mq_refuse(text, text, text, text)'::regprocedure;
-- Internal. Whether another session holds the advisory lock. It tries to take it and lets go of it at once.
CREATE FUNCTION mq_somebody_holds(class integer, key integer) RETURNS boolean
LANGUAGE sql VOLATILE
RETURN CASE WHEN pg_catalog.pg_try_advisory_lock(class, key) THEN NOT pg_catalog.pg_advisory_unlock(class, key) ELSE true END;
COMMENT ON FUNCTION mq_somebody_holds IS 'Internal. Whether another session holds an advisory lock.';

-- Epochs, against dead entries that cannot be cleaned away

-- sql/internal/mq_join_epoch.sql
SELECT mq_create_with('f', proacl, proowner) FROM pg_proc WHERE oid = 'mq_refuse(text, text, text, text)'::regprocedure;
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
    joined CONSTANT text := current_setting('sqlxmq.epoch', true);
    epoch  integer;
BEGIN
    -- With the transaction's number, since anybody can set it, for a session, too.
    IF split_part(joined, ' ', 1) = me THEN
        RETURN split_part(joined, ' ', 2)::integer;
    END IF;
    LOOP
        epoch := coalesce(pg_sequence_last_value('mq_epoch'), 1)::integer;
        PERFORM pg_advisory_xact_lock_shared('mq_epoch'::regclass::oid::integer, epoch);
        -- Before the lock was there, the epoch may have ended.
        EXIT WHEN epoch = coalesce(pg_sequence_last_value('mq_epoch'), 1);
    END LOOP;
    PERFORM set_config('sqlxmq.epoch', me || ' ' || epoch, true);
    RETURN epoch;
END
$$;
COMMENT ON FUNCTION mq_join_epoch IS 'Internal. The epoch in which this transaction issues tickets, held open until it ends.';

-- sql/internal/mq_begin_epoch.sql
SELECT mq_create_with('f', proacl, proowner) FROM pg_proc WHERE oid = 'mq_refuse(text, text, text, text)'::regprocedure;
-- Internal. Lets a new epoch begin: what is sent from now on lies apart from the dead entries of before.
-- Not twice within a tenth of a second, or when there are many already: each is worth some work.
CREATE FUNCTION mq_begin_epoch(this_time bigint) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    current_epoch CONSTANT integer := coalesce(pg_sequence_last_value('mq_epoch'), 1)::integer;
BEGIN
    IF current_epoch - coalesce(pg_sequence_last_value('mq_first_epoch'), 1)::integer >= 15
        OR current_epoch = 2147483647
        OR this_time < coalesce(pg_sequence_last_value('mq_epoch_began_at'), 0) + 100000 THEN
        RETURN;
    END IF;
    PERFORM setval('mq_epoch_began_at', this_time);
    -- Twice, the first time that it is used: a sequence begins with the number that it shows before.
    WHILE nextval('mq_epoch') <= current_epoch LOOP
    END LOOP;
END
$$;
COMMENT ON FUNCTION mq_begin_epoch IS 'Internal. Lets a new epoch begin.';

-- sql/internal/mq_carry_over.sql
SELECT mq_create_with('f', proacl, proowner) FROM pg_proc WHERE oid = 'mq_refuse(text, text, text, text)'::regprocedure;
-- Internal. Issues tickets of an old epoch anew, in the current one.
-- Returns: how many; the others, if any, are locked or more than were asked for.
-- Locks:   the tickets, without waiting: a locked one is being claimed.
CREATE FUNCTION mq_carry_over(old_epoch integer, most_tickets integer) RETURNS integer
LANGUAGE plpgsql
SET search_path = pg_catalog, @extschema@, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_bitmapscan = off
SET jit = off
AS $$
DECLARE
    current_epoch CONSTANT integer := mq_join_epoch();
    carried       integer;
BEGIN
    WITH left_behind AS (
        DELETE FROM mq_ready WHERE ctid = ANY (ARRAY(
            SELECT ticket.ctid FROM mq_ready AS ticket
            WHERE ticket.epoch = old_epoch
            ORDER BY ticket.channel, ticket.priority, ticket.position LIMIT most_tickets FOR UPDATE SKIP LOCKED))
        RETURNING channel, priority, position, id
    )
    INSERT INTO mq_ready (channel, priority, position, id, epoch)
    SELECT channel, priority, position, id, current_epoch FROM left_behind
    ON CONFLICT DO NOTHING;
    GET DIAGNOSTICS carried = ROW_COUNT;
    RETURN carried;
END
$$;
COMMENT ON FUNCTION mq_carry_over IS 'Internal. Issues tickets of an old epoch anew, in the current one.';

-- sql/internal/mq_tend_epochs.sql
SELECT mq_create_with('f', proacl, proowner) FROM pg_proc WHERE oid = 'mq_refuse(text, text, text, text)'::regprocedure;
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

-- Who is to be notified

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
    is_always CONSTANT boolean := pg_sequence_last_value('mq_notified_until') >= extract(epoch FROM clock_timestamp());
    one       text;
BEGIN
    IF cardinality(channel_names) = 0 THEN
        RETURN;
    END IF;
    FOR one IN SELECT DISTINCT c FROM unnest(channel_names) AS c LOOP
        IF is_always OR mq_somebody_holds(class, hashtext(one)) THEN
            PERFORM pg_notify(mq_notify_channel(one), '');
        END IF;
    END LOOP;
    IF is_always OR mq_somebody_holds(class, 0) THEN
        PERFORM pg_notify('mq', '');
    END IF;
END
$$;
COMMENT ON FUNCTION mq_notify IS 'Internal. Announces that jobs of these channel names may have become ready, if anybody may be asleep.';

-- sql/internal/mq_notify_until.sql
SELECT mq_create_with('f', proacl, proowner) FROM pg_proc WHERE oid = 'mq_refuse(text, text, text, text)'::regprocedure;
-- Internal. Somebody sleeps who does not say when he wakes up: at the time given at the latest. Every send
-- notifies until a while after that, so that this is written rarely.
-- Arguments: looked_at, who was there when this poll began to look for jobs.
-- Returns: how soon he has to look again by himself: a sender that is open since before sends notified may
--          notify nobody. NULL: he need not.
CREATE FUNCTION mq_notify_until(wake_up timestamptz, looked_at pg_snapshot) RETURNS interval
LANGUAGE plpgsql
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    notified_until CONSTANT bigint := coalesce(pg_sequence_last_value('mq_notified_until'), 0);
BEGIN
    IF to_timestamp(notified_until) < wake_up + interval '1 minute' THEN
        PERFORM setval('mq_notified_until', extract(epoch FROM wake_up + interval '10 minutes')::bigint);
        IF to_timestamp(notified_until) < clock_timestamp() THEN
            PERFORM setval('mq_notified_since', pg_current_xact_id()::text::bigint);
            RETURN interval '5 milliseconds';
        END IF;
    END IF;
    IF pg_snapshot_xmin(looked_at)::text::bigint < pg_sequence_last_value('mq_notified_since') THEN
        RETURN interval '0.2 seconds';
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION mq_notify_until IS 'Internal. Lets every send notify, since somebody may sleep until then.';

-- sql/internal/mq_wake_up.sql
SELECT mq_create_with('f', proacl, proowner) FROM pg_proc WHERE oid = 'mq_refuse(text, text, text, text)'::regprocedure;
-- Internal. This session has work and polls again by itself: senders need not notify it.
CREATE FUNCTION mq_wake_up() RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    class CONSTANT integer := 'mq_notified_until'::regclass::oid::integer;
BEGIN
    PERFORM pg_advisory_unlock_shared(class, objid::integer) FROM pg_locks
    WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND classid::integer = class AND objsubid = 2;
    PERFORM set_config('sqlxmq.asleep', '', false);
END
$$;
COMMENT ON FUNCTION mq_wake_up IS 'Internal. Lets senders no longer notify this session.';

-- sql/internal/mq_fall_asleep.sql
SELECT mq_create_with('f', proacl, proowner) FROM pg_proc WHERE oid = 'mq_refuse(text, text, text, text)'::regprocedure;
-- Internal. This session has found nothing to do and waits to be notified; senders see that by its locks.
-- Arguments: looked_at, who was there when this poll began to look for jobs.
-- Returns: how soon it has to look again by itself. A sender that looked before the lock was there notifies
--          nobody, and commits when it likes: as long as a transaction is open that was so then, the
--          session looks again, at intervals that grow with the time it has slept. After that, every five
--          seconds: should it have been cut off without a sign, it holds no lock any more.
-- Locks:   an advisory lock, shared, of the session, for each channel name (0 stands for all of them),
--          until mq_wake_up.
CREATE FUNCTION mq_fall_asleep(channel_names text[], looked_at pg_snapshot) RETURNS interval
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
        OR keys <> ARRAY(SELECT objid::integer FROM pg_locks
                         WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND classid::integer = class AND objsubid = 2
                         ORDER BY 1) THEN
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

-- Running jobs, the fence

-- sql/views/mq_held.sql
-- The one place that says what running means: the job has no ticket anywhere. Functions of the
-- worker's side delete and update through this view, by id and attempt; that is the fence.
-- Each look-up is a scalar subquery, not NOT EXISTS: the planner can make no join and no hash table
-- of it, so it stays one index probe whatever the statistics say.
CREATE OR REPLACE VIEW mq_held AS
SELECT job.*, job.attempts_ended + 1 AS attempt
FROM mq_msgs AS job
WHERE job.died_at IS NULL
  AND (SELECT true FROM mq_ready AS ticket
       WHERE ticket.epoch = ANY (ARRAY(SELECT epoch FROM mq_open_epochs))
         AND ticket.channel = job.channel
         AND ticket.priority = job.priority
         AND ticket.position = job.position) IS NULL
  AND (coalesce(job.reserved_until, job.due_at) IS NULL
       OR (SELECT true FROM mq_scheduled AS ticket
           WHERE ticket.due_at = coalesce(job.reserved_until, job.due_at)
             AND ticket.id = job.id) IS NULL)
  AND (NOT job.ordered
       OR (SELECT true FROM mq_blocked AS ticket
           WHERE ticket.channel = job.channel
             AND ticket.position = job.position) IS NULL);
COMMENT ON VIEW mq_held IS 'Internal. The jobs that somebody has claimed and not let go of: those without a ticket.';

-- Strict order

-- sql/internal/mq_issue_ticket.sql
-- Internal. Lets a job go that nothing is in front of: it is ready, or scheduled for its time.
-- Returns: whether it is ready.
CREATE OR REPLACE FUNCTION mq_issue_ticket(job mq_msgs) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    IF job.due_at > clock_timestamp() THEN
        INSERT INTO mq_scheduled (due_at, id) VALUES (job.due_at, job.id) ON CONFLICT DO NOTHING;
        RETURN false;
    END IF;
    INSERT INTO mq_ready (channel, priority, position, id, epoch)
    VALUES (job.channel, job.priority, job.position, job.id, mq_join_epoch())
    ON CONFLICT DO NOTHING;
    RETURN true;
END
$$;
COMMENT ON FUNCTION mq_issue_ticket IS 'Internal. Gives a job that nothing holds back its ticket: ready or scheduled.';

-- Sending

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
    this_moment CONSTANT timestamptz := clock_timestamp();
    bad         record;
    used_id     uuid;
    documents   json[];
    parsed      json[];
    opened      uuid[] := ARRAY[]::uuid[];
    any_ordered boolean;
    epoch       integer;
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
    END IF;

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
    -- The sum of all conditions, cheap enough to be evaluated for every job of every call.
    WHERE (m.id IS NOT NULL
           AND length(m.name) BETWEEN 1 AND 1000
           AND length(m.channel_name) <= 1000
           AND length(m.channel_args) <= 1000
           AND m.ordered IS NOT NULL
           AND m.delay >= interval '0' AND m.delay <= interval '1000 years'
           AND m.retries BETWEEN 0 AND 1000000000
           AND m.retry_backoff >= interval '0' AND m.retry_backoff <= interval '1000 years'
           AND (m.commit_interval IS NULL
                OR m.commit_interval >= interval '0' AND m.commit_interval <= interval '1000 years')
           AND (priorities IS NULL OR m.priority BETWEEN -32768 AND 32767)
           AND (when_dead IS NULL OR m.when_dead_choice IN ('hold', 'pass'))) IS NOT TRUE
    LIMIT 1;
    IF FOUND THEN
        PERFORM mq_refuse(bad.code, CASE cardinality(new_messages)
            WHEN 1 THEN bad.argument ELSE format('%s of message %s', bad.argument, bad.n) END,
            bad.value, bad.rule);
    END IF;

    SELECT m.id INTO used_id FROM unnest(new_messages) AS m
    WHERE (SELECT true FROM mq_msgs AS job WHERE job.id = m.id)
    LIMIT 1;
    IF used_id IS NULL AND cardinality(new_messages) > 1 THEN
        SELECT m.id INTO used_id FROM unnest(new_messages) AS m GROUP BY m.id HAVING count(*) > 1 LIMIT 1;
    END IF;
    IF used_id IS NOT NULL THEN
        PERFORM mq_refuse('23505', 'id', used_id::text, 'another job has this id');
    END IF;

    documents := mq_parse_json('payload_json', ARRAY(SELECT m.payload_json FROM unnest(new_messages) AS m));
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

    SELECT coalesce(bool_or(m.ordered), false) INTO any_ordered FROM unnest(new_messages) AS m;
    IF any_ordered THEN
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
        RETURNING job.id, job.channel, job.priority, job.position, job.ordered,
                  job.due_at, job.reserved_until
    ), placed AS (
        SELECT job.*, job.ordered AND NOT (
            job.channel = ANY (opened)
            AND job.position = min(job.position) OVER (PARTITION BY job.channel, job.ordered)) AS is_blocked
        FROM job WHERE any_ordered
        UNION ALL
        SELECT job.*, false FROM job WHERE NOT any_ordered
    ), head AS (
        INSERT INTO mq_heads (channel, id)
        SELECT channel, id FROM placed WHERE ordered AND NOT is_blocked
    ), blocked AS (
        INSERT INTO mq_blocked (channel, position, id)
        SELECT channel, position, id FROM placed WHERE is_blocked
    ), scheduled AS (
        -- A reservation has its end among the scheduled even while it is blocked, to expire in time.
        INSERT INTO mq_scheduled (due_at, id)
        SELECT coalesce(reserved_until, due_at), id FROM placed
        WHERE reserved_until IS NOT NULL OR due_at IS NOT NULL AND NOT is_blocked
    )
    INSERT INTO mq_ready (channel, priority, position, id, epoch)
    SELECT channel, priority, position, id, epoch FROM placed
    WHERE reserved_until IS NULL AND due_at IS NULL AND NOT is_blocked;

    PERFORM mq_notify(ARRAY(SELECT m.channel_name FROM unnest(new_messages) AS m));
END
$$;
COMMENT ON FUNCTION mq_insert IS 'Sends jobs, all or none.';

-- Claiming

-- sql/internal/mq_take_back_expired.sql
SELECT mq_create_with('f', proacl, proowner) FROM pg_proc WHERE oid = 'mq_take_back_expired(timestamptz, integer)'::regprocedure;
DROP FUNCTION mq_take_back_expired(timestamptz, integer);
-- Internal. Looks at claims whose deadline has passed: their jobs that still exist and are still at the
-- attempt of the claim are taken back, or, leased for longer, claimed on. It stops after ten claims, or
-- after the first with which it has looked at two hundred jobs, so that no poll has to do much of it.
-- Arguments: since, nothing earlier is looked for.
-- Locks:   the claims, then the jobs, without waiting: a job whose row somebody has locked is being
--          completed, failed or kept alive right now, and stays held for another second.
CREATE FUNCTION mq_take_back_expired(since timestamptz, this_moment timestamptz) RETURNS void
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
    expired        mq_claims;
    one            record;
    job            mq_msgs;
    again          timestamptz;
    seen           integer := 0;
    ids            uuid[];
    positions      bigint[];
    attempts       integer[];
    over_ids       uuid[];
    over_positions bigint[];
    over_attempts  integer[];
BEGIN
    FOR number IN 1..10 LOOP
        DELETE FROM mq_claims WHERE ctid = (
            SELECT claim.ctid FROM mq_claims AS claim
            WHERE claim.deadline >= since AND claim.deadline <= this_moment
            ORDER BY claim.deadline LIMIT 1 FOR UPDATE SKIP LOCKED)
        RETURNING * INTO expired;
        EXIT WHEN NOT FOUND;
        since := expired.deadline;
        -- Who is leased for longer needs no lock: should it be completed meanwhile, the next look finds that.
        SELECT coalesce(array_agg(held.id) FILTER (WHERE until > this_moment), '{}'),
               coalesce(array_agg(held.position) FILTER (WHERE until > this_moment), '{}'),
               coalesce(array_agg(held.attempt) FILTER (WHERE until > this_moment), '{}'),
               least(min(until) FILTER (WHERE until > this_moment), this_moment + interval '10 seconds'),
               array_agg(held.id) FILTER (WHERE until <= this_moment),
               array_agg(held.position) FILTER (WHERE until <= this_moment),
               array_agg(held.attempt) FILTER (WHERE until <= this_moment)
        INTO ids, positions, attempts, again, over_ids, over_positions, over_attempts
        FROM unnest(expired.ids, expired.positions, expired.attempts) AS held (id, position, attempt)
        CROSS JOIN LATERAL (
            SELECT greatest(here.leased_until, expired.leased_until) FROM mq_msgs AS here
            WHERE here.id = held.id AND here.position = held.position AND here.attempts_ended = held.attempt - 1
            OFFSET 0) AS lease (until);
        FOR one IN
            SELECT held.id, held.position, held.attempt
            FROM unnest(over_ids, over_positions, over_attempts) AS held (id, position, attempt)
        LOOP
            SELECT * INTO job FROM mq_msgs WHERE id = one.id AND position = one.position FOR UPDATE SKIP LOCKED;
            IF NOT FOUND THEN
                again := least(again, this_moment + interval '1 second');
            ELSIF job.attempts_ended <> one.attempt - 1 THEN
                CONTINUE;
            ELSIF greatest(job.leased_until, expired.leased_until) > this_moment THEN
                again := least(again, greatest(job.leased_until, expired.leased_until));
            ELSE
                PERFORM mq_end_attempt(
                    job,
                    format('The lease of attempt %s, held by %s, was over at %s.', one.attempt,
                           coalesce(nullif(expired.worker, ''), 'an unnamed worker'),
                           greatest(job.leased_until, expired.leased_until)),
                    interval '0', true, false);
                CONTINUE;
            END IF;
            ids := ids || one.id;
            positions := positions || one.position;
            attempts := attempts || one.attempt;
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
SELECT mq_create_with('f', proacl, proowner) FROM pg_proc WHERE oid = 'mq_release_due(timestamptz, integer)'::regprocedure;
DROP FUNCTION mq_release_due(timestamptz, integer);
-- Internal. Jobs whose time has come become ready; reservations whose time is over disappear.
-- A ticket counts only if its time is the job's; others are left over and are dropped.
-- Arguments: since, nothing earlier is looked for; most_jobs, how many at most.
-- Returns: how many tickets it has met.
-- Locks:   the tickets, and reserved jobs, without waiting: a reservation whose row is locked is
--          being committed, kept alive or cancelled right now.
CREATE FUNCTION mq_release_due(since timestamptz, this_moment timestamptz, most_jobs integer) RETURNS integer
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
        SELECT job.id, job.channel, job.priority, job.position, job.reserved_until
        FROM due JOIN mq_msgs AS job ON job.id = due.id
        WHERE coalesce(job.reserved_until, job.due_at) = due.due_at
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

-- sql/internal/mq_set_marks.sql
SELECT mq_create_with('f', proacl, proowner) FROM pg_proc WHERE oid = 'mq_refuse(text, text, text, text)'::regprocedure;
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

-- sql/functions/mq_poll.sql
SELECT mq_create_with('f', proacl, proowner) FROM pg_proc WHERE oid = 'mq_poll(text[], integer, interval, text)'::regprocedure;
DROP FUNCTION mq_poll(text[], integer, interval, text);
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
CREATE FUNCTION mq_poll(
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
            -- Each job that is taken should cost a few steps, not dozens.
            stepped_over := stepped_over + pg_stat_get_xact_tuples_returned('mq_ready_pkey'::regclass);
            IF stepped_over > 200 + 8 * still_wanted THEN
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

-- Reporting: the worker's side

-- sql/internal/mq_remove_tickets.sql
-- Internal. Removes whatever tickets these jobs have; the caller removes the jobs.
-- Locks:   the tickets, waiting for a poll that is just taking them.
CREATE OR REPLACE FUNCTION mq_remove_tickets(msg_ids uuid[]) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, @extschema@, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET enable_bitmapscan = off
SET jit = off
AS $$
BEGIN
    -- By a look-up for each job: of a join the planner, having seen an empty queue, makes a scan of all tickets.
    WITH job AS MATERIALIZED (
        SELECT job.id, job.channel, job.priority, job.position, job.ordered, job.died_at,
               coalesce(job.reserved_until, job.due_at) AS due_at
        FROM mq_msgs AS job WHERE job.id = ANY (msg_ids)
    ), blocked AS (
        DELETE FROM mq_blocked WHERE ctid = ANY (ARRAY(
            SELECT place.ctid FROM job CROSS JOIN LATERAL (
                SELECT ticket.ctid FROM mq_blocked AS ticket
                WHERE ticket.channel = job.channel AND ticket.position = job.position OFFSET 0) AS place
            WHERE job.ordered))
    ), scheduled AS (
        DELETE FROM mq_scheduled WHERE ctid = ANY (ARRAY(
            SELECT place.ctid FROM job CROSS JOIN LATERAL (
                SELECT ticket.ctid FROM mq_scheduled AS ticket
                WHERE ticket.due_at = job.due_at AND ticket.id = job.id OFFSET 0) AS place
            WHERE job.due_at IS NOT NULL))
    ), dead AS (
        DELETE FROM mq_dead WHERE ctid = ANY (ARRAY(
            SELECT place.ctid FROM job CROSS JOIN LATERAL (
                SELECT ticket.ctid FROM mq_dead AS ticket
                WHERE ticket.died_at = job.died_at AND ticket.id = job.id OFFSET 0) AS place
            WHERE job.died_at IS NOT NULL))
    )
    DELETE FROM mq_ready WHERE ctid = ANY (ARRAY(
        SELECT place.ctid FROM job CROSS JOIN LATERAL (
            SELECT ticket.ctid FROM mq_ready AS ticket
            WHERE ticket.epoch = ANY (ARRAY(SELECT epoch FROM mq_open_epochs))
              AND ticket.channel = job.channel AND ticket.priority = job.priority AND ticket.position = job.position
            OFFSET 0) AS place));
END
$$;
COMMENT ON FUNCTION mq_remove_tickets IS 'Internal. Removes whatever tickets these jobs have.';

-- sql/functions/mq_delete.sql
-- Purpose: remove jobs, whatever state they are in: completion as the crate does it. It is not fenced;
--          new clients use mq_complete.
-- Returns: nothing; unknown ids are passed over.
-- Locks:   the jobs' tickets, then their rows in the order of their ids.
-- Errors:  22004 msg_ids is NULL or holds a NULL.
-- Callers: worker, operator.
CREATE OR REPLACE FUNCTION mq_delete(msg_ids uuid[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET enable_bitmapscan = off
SET jit = off
AS $$
BEGIN
    PERFORM mq_check_ids(msg_ids, NULL, false);
    -- First the tickets, then the jobs: the order in which everybody takes them.
    PERFORM mq_remove_tickets(msg_ids);
    -- The index gives them in the order of their ids. Not by a join, of which the planner, having seen an
    -- empty queue, makes a scan of all jobs.
    DELETE FROM mq_msgs WHERE id = ANY (msg_ids);
END
$$;
COMMENT ON FUNCTION mq_delete IS 'Removes jobs whatever their state, unfenced.';

-- Operating

-- sql/functions/mq_cancel.sql
-- Purpose: cancel jobs. One that waits (or is dead) is removed; the holder of a running one is told at
--          its next keep-alive, and the job is removed as soon as it is let go of: it is not retried.
-- Returns: a row for each job that is in the queue: outcome is 'removed' or 'requested'.
-- Locks:   the jobs' rows and tickets.
-- Errors:  22004 msg_ids is NULL or holds a NULL.
-- Callers: operator.
CREATE OR REPLACE FUNCTION mq_cancel(msg_ids uuid[]) RETURNS TABLE (msg_id uuid, outcome text)
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
    one        uuid;
    job        mq_msgs;
    is_waiting boolean;
BEGIN
    PERFORM mq_check_ids(msg_ids, NULL, false);
    <<each>>
    FOR one IN SELECT DISTINCT wanted.id FROM unnest(msg_ids) AS wanted (id) ORDER BY id LOOP
        LOOP
            SELECT * INTO job FROM mq_msgs WHERE mq_msgs.id = one;
            CONTINUE each WHEN NOT FOUND;
            -- Whoever gets the ticket has the job: a poll that was first has left none. In the order in
            -- which tickets move, so that one on the move is met further on, or seen as running.
            DELETE FROM mq_blocked AS ticket WHERE ticket.channel = job.channel AND ticket.position = job.position;
            is_waiting := FOUND;
            DELETE FROM mq_scheduled AS ticket
            WHERE ticket.due_at = coalesce(job.reserved_until, job.due_at) AND ticket.id = job.id;
            is_waiting := is_waiting OR FOUND;
            IF NOT is_waiting THEN
                DELETE FROM mq_ready AS ticket
                WHERE ticket.epoch = ANY (ARRAY(SELECT epoch FROM mq_open_epochs))
                  AND ticket.channel = job.channel AND ticket.priority = job.priority AND ticket.position = job.position;
                is_waiting := FOUND;
            END IF;
            IF NOT is_waiting THEN
                DELETE FROM mq_dead AS ticket WHERE ticket.died_at = job.died_at AND ticket.id = job.id;
                is_waiting := FOUND;
            END IF;
            IF is_waiting THEN
                outcome := 'removed';
                DELETE FROM mq_msgs WHERE mq_msgs.id = one;
            ELSE
                outcome := 'requested';
                UPDATE mq_msgs SET cancel_requested_at = coalesce(cancel_requested_at, clock_timestamp())
                WHERE mq_msgs.id = one AND mq_msgs.position = job.position
                  AND mq_msgs.attempts_ended = job.attempts_ended AND mq_msgs.died_at IS NOT DISTINCT FROM job.died_at;
            END IF;
            -- Not found: its holder has just finished the attempt, or the job. Look again.
            EXIT WHEN FOUND;
        END LOOP;
        msg_id := one;
        RETURN NEXT;
    END LOOP;
END
$$;
COMMENT ON FUNCTION mq_cancel IS 'Removes waiting jobs, and asks the holders of running ones to stop.';

-- sql/views/mq_jobs.sql
-- Says what each job's state is now, even where no poll has acted on it yet: a delayed job whose time
-- has come is ready, one whose lease is over is ready or dead, a reservation that is over is not shown.
CREATE OR REPLACE VIEW mq_jobs AS
SELECT
    job.id,
    CASE
        WHEN job.died_at IS NOT NULL THEN 'dead'
        WHEN blocked.id IS NOT NULL THEN 'blocked'
        WHEN ready.id IS NOT NULL THEN 'ready'
        WHEN scheduled.id IS NOT NULL THEN
            CASE WHEN job.reserved_until IS NULL AND job.due_at <= clock_timestamp() THEN 'ready' ELSE 'scheduled' END
        WHEN greatest(claim.leased_until, job.leased_until) > clock_timestamp() THEN 'running'
        WHEN job.attempts_ended + 1 < job.attempts_allowed THEN 'ready'
        ELSE 'dead'
    END AS state,
    job.name,
    job.channel_name,
    job.channel_args,
    job.priority,
    job.ordered,
    CASE WHEN job.passes_when_dead THEN 'pass' ELSE 'hold' END AS when_dead,
    job.attempts_ended + CASE WHEN claim.id IS NULL THEN 0 ELSE 1 END AS attempts_made,
    job.attempts_allowed - job.attempts_ended - CASE WHEN claim.id IS NULL THEN 0 ELSE 1 END AS attempts_left,
    job.retry_backoff,
    job.created_at,
    coalesce(job.due_at, job.created_at) AS due_at,
    job.reserved_until,
    CASE WHEN claim.id IS NOT NULL THEN greatest(claim.leased_until, job.leased_until) END AS leased_until,
    claim.worker,
    job.cancel_requested_at,
    job.died_at,
    job.last_error,
    job.position,
    job.payload_json,
    job.payload_bytes,
    job.headers
FROM mq_msgs AS job
LEFT JOIN mq_ready AS ready
    ON ready.epoch = ANY (ARRAY(SELECT epoch FROM mq_open_epochs))
    AND ready.channel = job.channel AND ready.priority = job.priority AND ready.position = job.position
LEFT JOIN mq_blocked AS blocked
    ON blocked.channel = job.channel AND blocked.position = job.position
LEFT JOIN mq_scheduled AS scheduled
    ON scheduled.id = job.id AND scheduled.due_at = coalesce(job.reserved_until, job.due_at)
LEFT JOIN (
    SELECT one.id, one.position, one.attempt, claim.leased_until, claim.worker
    FROM mq_claims AS claim CROSS JOIN LATERAL unnest(claim.ids, claim.positions, claim.attempts) AS one (id, position, attempt)
) AS claim
    ON claim.id = job.id AND claim.position = job.position AND claim.attempt = job.attempts_ended + 1
WHERE job.reserved_until IS NULL OR job.reserved_until > clock_timestamp();
COMMENT ON VIEW mq_jobs IS 'All jobs with their state in words: ready, scheduled, running, blocked or dead.';

-- sql/functions/mq_status.sql
-- Purpose: the queue at a glance: how many jobs each channel has in each state, and how old the
--          oldest ready one is. Cheap enough to be polled: it counts no further than count_limit in
--          each channel (for scheduled and dead jobs: than ten times that over all channels).
-- Arguments: channel_names, only these (NULL: all); count_limit, 1 to 1000000.
-- Returns: a row for each channel with jobs: counts; is_exact, whether none of them was cut off at
--          the limit; oldest_ready_at, since when the oldest of the counted ready jobs could run;
--          held_by, the ordered job whose turn it is while others wait behind it.
-- Locks:   none.
-- Errors:  22004, 22023 for bad arguments.
-- Callers: observer, operator.
CREATE OR REPLACE FUNCTION mq_status(
    channel_names text[] DEFAULT NULL,
    count_limit   integer DEFAULT 1000
) RETURNS TABLE (
    channel_name    text,
    channel_args    text,
    ready           bigint,
    scheduled       bigint,
    running         bigint,
    blocked         bigint,
    dead            bigint,
    is_exact        boolean,
    oldest_ready_at timestamptz,
    held_by         uuid
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET enable_bitmapscan = off
SET jit = off
AS $$
#variable_conflict use_column
BEGIN
    IF count_limit IS NULL OR count_limit NOT BETWEEN 1 AND 1000000 THEN
        PERFORM mq_refuse(CASE WHEN count_limit IS NULL THEN '22004' ELSE '22023' END,
            'count_limit', count_limit::text, 'it must be between 1 and 1000000');
    ELSIF channel_names IS NOT NULL THEN
        PERFORM mq_check_channel_names(channel_names);
    END IF;
    RETURN QUERY
    WITH RECURSIVE ready_channel AS (
        SELECT epoch, NULL::uuid AS channel, true AS goes_on FROM mq_open_epochs
        UNION ALL
        SELECT ready_channel.epoch, next.channel, next.channel IS NOT NULL
        FROM ready_channel LEFT JOIN LATERAL (
            SELECT ticket.channel FROM mq_ready AS ticket
            WHERE ticket.epoch = ready_channel.epoch
              AND ticket.channel > coalesce(ready_channel.channel, '00000000-0000-0000-0000-000000000000')
            ORDER BY ticket.channel LIMIT 1) AS next ON true
        WHERE ready_channel.goes_on
    ), counted AS (
        SELECT ready_channel.channel, 'ready' AS state, few.jobs, few.example_id,
               few.jobs >= count_limit AS is_cut,
               (SELECT coalesce(job.due_at, job.created_at) FROM mq_msgs AS job WHERE job.id = few.example_id) AS since
        FROM ready_channel CROSS JOIN LATERAL (
            SELECT count(*) AS jobs, (array_agg(ticket.id ORDER BY ticket.position))[1] AS example_id
            FROM (SELECT id, position FROM mq_ready
                  WHERE epoch = ready_channel.epoch AND channel = ready_channel.channel
                  ORDER BY priority, position LIMIT count_limit) AS ticket
        ) AS few
        WHERE ready_channel.channel IS NOT NULL
        UNION ALL
        SELECT head.channel, 'blocked', few.jobs, few.example_id, few.jobs >= count_limit, NULL
        FROM mq_heads AS head CROSS JOIN LATERAL (
            SELECT count(*) AS jobs, (array_agg(ticket.id))[1] AS example_id
            FROM (SELECT id FROM mq_blocked WHERE channel = head.channel
                  ORDER BY position LIMIT count_limit) AS ticket
        ) AS few
        WHERE few.jobs > 0
        UNION ALL
        -- Due by now, though no poll has been there to see it: that is ready, too.
        SELECT job.channel, CASE WHEN job.reserved_until IS NULL AND job.due_at <= clock_timestamp() THEN 'ready' ELSE 'scheduled' END,
               count(*), (array_agg(job.id))[1], sum(count(*)) OVER () >= 10 * count_limit::bigint,
               min(job.due_at) FILTER (WHERE job.due_at <= clock_timestamp())
        FROM (SELECT due_at, id FROM mq_scheduled ORDER BY due_at LIMIT 10 * count_limit::bigint) AS ticket
        JOIN mq_msgs AS job ON job.id = ticket.id AND coalesce(job.reserved_until, job.due_at) = ticket.due_at
        WHERE (job.reserved_until IS NULL OR job.reserved_until > clock_timestamp())
            AND NOT EXISTS (SELECT FROM mq_blocked WHERE channel = job.channel AND position = job.position)
        GROUP BY 1, 2
        UNION ALL
        -- A lease that is over counts for what the next poll will make of it.
        SELECT job.channel,
               CASE WHEN greatest(claim.leased_until, job.leased_until) > clock_timestamp() THEN 'running'
                    WHEN one.attempt < job.attempts_allowed THEN 'ready' ELSE 'dead' END,
               count(*), (array_agg(job.id))[1], false, NULL
        FROM mq_claims AS claim
        CROSS JOIN LATERAL unnest(claim.ids, claim.positions, claim.attempts) AS one (id, position, attempt)
        JOIN mq_msgs AS job ON job.id = one.id AND job.position = one.position AND job.attempts_ended + 1 = one.attempt
        GROUP BY 1, 2
        UNION ALL
        SELECT job.channel, 'dead', count(*), (array_agg(job.id))[1], sum(count(*)) OVER () >= 10 * count_limit::bigint, NULL
        FROM (SELECT died_at, id FROM mq_dead ORDER BY died_at DESC LIMIT 10 * count_limit::bigint) AS ticket
        JOIN mq_msgs AS job ON job.id = ticket.id AND job.died_at = ticket.died_at
        GROUP BY 1
    ), channel AS (
        SELECT counted.channel,
               (array_agg(counted.example_id))[1] AS example_id,
               coalesce(sum(jobs) FILTER (WHERE state = 'ready'), 0)::bigint AS ready,
               coalesce(sum(jobs) FILTER (WHERE state = 'scheduled'), 0)::bigint AS scheduled,
               coalesce(sum(jobs) FILTER (WHERE state = 'running'), 0)::bigint AS running,
               coalesce(sum(jobs) FILTER (WHERE state = 'blocked'), 0)::bigint AS blocked,
               coalesce(sum(jobs) FILTER (WHERE state = 'dead'), 0)::bigint AS dead,
               bool_or(is_cut) AS is_cut,
               min(since) AS since
        FROM counted GROUP BY counted.channel
    )
    SELECT job.channel_name, job.channel_args, channel.ready, channel.scheduled, channel.running,
           channel.blocked, channel.dead,
           NOT channel.is_cut AND (SELECT count(*) FROM counted WHERE state IN ('scheduled', 'dead') AND is_cut) = 0,
           channel.since,
           CASE WHEN channel.blocked > 0 THEN (SELECT head.id FROM mq_heads AS head WHERE head.channel = channel.channel) END
    FROM channel JOIN mq_msgs AS job ON job.id = channel.example_id
    WHERE channel_names IS NULL OR job.channel_name = ANY (channel_names)
    ORDER BY job.channel_name, job.channel_args;
END
$$;
COMMENT ON FUNCTION mq_status IS 'How many jobs each channel has in each state; counts stop at a limit, so that it stays cheap.';

-- sql/functions/mq_explain.sql
-- Purpose: why is this job not running (or where is it)?
-- Returns: one row: its state as in mq_jobs ('gone' for an id that is not in the queue), a sentence,
--          the job that it waits for, if any, and when something changes by itself, if it does.
-- Locks:   none.
-- Errors:  22004 msg_id is NULL.
-- Callers: observer, operator.
CREATE OR REPLACE FUNCTION mq_explain(msg_id uuid)
RETURNS TABLE (state text, explanation text, waits_for uuid, until timestamptz)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
SET jit = off
AS $$
DECLARE
    job       record;
    head      record;
    ahead     bigint;
BEGIN
    IF msg_id IS NULL THEN
        PERFORM mq_refuse('22004', 'msg_id', NULL, 'it must be a job id');
    END IF;
    SELECT * INTO job FROM mq_jobs WHERE mq_jobs.id = msg_id;
    IF NOT FOUND THEN
        state := 'gone';
        explanation := 'There is no such job: it was never sent (or not committed yet), or it is completed, cancelled, cleared or expired.';
        RETURN NEXT;
        RETURN;
    END IF;
    state := job.state;
    CASE
        WHEN job.state = 'blocked' THEN
            SELECT mq_jobs.* INTO head FROM mq_heads JOIN mq_jobs ON mq_jobs.id = mq_heads.id
            WHERE mq_heads.channel = mq_channel_key(job.channel_name, job.channel_args);
            IF NOT FOUND THEN
                explanation := 'The ordered job before it is finished; the next poll makes it ready.';
            ELSE
                waits_for := head.id;
                until := coalesce(head.reserved_until, head.leased_until,
                                  CASE WHEN head.state = 'scheduled' THEN head.due_at END);
                explanation := format('It is ordered, and job %s (%s) of its channel comes first, which is %s%s.',
                    head.id, head.name, head.state,
                    CASE head.state
                        WHEN 'dead' THEN ' and holds the channel until it is retried (mq_retry) or removed (mq_cancel)'
                        WHEN 'scheduled' THEN CASE WHEN head.reserved_until IS NULL THEN '' ELSE ' (reserved, not committed)' END
                        ELSE ''
                    END);
            END IF;
        WHEN job.state = 'scheduled' AND job.reserved_until IS NOT NULL THEN
            until := job.reserved_until;
            explanation := format('It is reserved only: unless it is committed (mq_commit) by %s, it disappears.', until);
        WHEN job.state = 'scheduled' THEN
            until := job.due_at;
            explanation := CASE WHEN job.attempts_made = 0
                THEN format('It is delayed until %s.', until)
                ELSE format('Attempt %s failed, and it waits until %s for the next. The error: %s', job.attempts_made, until, job.last_error)
            END;
        WHEN job.state = 'running' THEN
            until := job.leased_until;
            explanation := format('It is running at attempt %s, held by %s until %s unless kept alive longer.%s',
                job.attempts_made, coalesce(nullif(job.worker, ''), 'an unnamed worker'), until,
                CASE WHEN job.cancel_requested_at IS NULL THEN '' ELSE format(' Its holder has been asked at %s to stop.', job.cancel_requested_at) END);
        WHEN job.state = 'dead' THEN
            explanation := format('%s; it stays until it is retried (mq_retry) or removed. The last error: %s',
                CASE
                    WHEN job.attempts_left > 0 THEN format('It failed for good at attempt %s', job.attempts_made)
                    WHEN job.attempts_made = 1 THEN 'Its only attempt is used up'
                    ELSE format('Its %s attempts are used up', job.attempts_made)
                END,
                coalesce(job.last_error, 'none was kept, the last lease ran out'));
        ELSE
            SELECT count(*) INTO ahead FROM (
                SELECT FROM mq_ready AS ticket
                WHERE ticket.epoch = ANY (ARRAY(SELECT epoch FROM mq_open_epochs))
                  AND ticket.channel = mq_channel_key(job.channel_name, job.channel_args)
                  AND (ticket.priority, ticket.position) < (job.priority, job.position)
                LIMIT 1000) AS earlier;
            explanation := format('It is ready: the next poll for channel name %L can claim it. Jobs of its channel before it: %s%s.',
                job.channel_name, ahead, CASE WHEN ahead = 1000 THEN ' or more' ELSE '' END);
    END CASE;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION mq_explain IS 'Says in a sentence why a job is not running, and which job it waits for.';

-- sql/functions/mq_version.sql
-- Purpose: which version of the queue's SQL this is.
-- Returns: the version, as in the extension's control file.
-- Locks:   none.
-- Errors:  none.
-- Callers: producer, worker, observer, operator.
CREATE OR REPLACE FUNCTION mq_version() RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN '0.3.0'::text;
COMMENT ON FUNCTION mq_version IS 'The version of this queue''s SQL.';

-- Backup

-- sql/backup.sql
SELECT pg_catalog.pg_extension_config_dump('mq_late_epochs', '');
SELECT pg_catalog.pg_extension_config_dump('mq_epoch', '');

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
