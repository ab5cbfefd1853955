\echo Use "ALTER EXTENSION sqlxmq UPDATE" to load this file. \quit

-- From 0.3.0 to 0.4.0: what CREATE EXTENSION makes of 0.4.0, with the jobs and the rights that are there.

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

-- Operating

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
