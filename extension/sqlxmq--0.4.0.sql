\echo Use "CREATE EXTENSION sqlxmq" to load this file. \quit

-- The extension, in the order in which it is built. Read top to bottom, it is the table of contents.

-- Where a job is: one row in mq_msgs, and one ticket that says what it waits for (none: it runs).

-- sql/tables/mq_msgs.sql
-- A job's row is written when it is sent and deleted when it is done. Claiming does not touch it:
-- what changes in between is the job's ticket (tables/tickets.sql). No column that changes is
-- indexed, so a failed attempt, a check-point or a keep-alive is an in-place (HOT) update; the
-- fill factor leaves room for it.
CREATE SEQUENCE mq_position AS bigint;
COMMENT ON SEQUENCE mq_position IS 'The order in which jobs were sent.';

CREATE TABLE mq_msgs (
    id                  uuid PRIMARY KEY,
    channel             uuid NOT NULL,
    position            bigint NOT NULL,
    created_at          timestamptz NOT NULL,
    due_at              timestamptz,
    reserved_until      timestamptz,
    leased_until        timestamptz,
    died_at             timestamptz,
    cancel_requested_at timestamptz,
    retry_backoff       interval NOT NULL,
    attempts_ended      integer NOT NULL DEFAULT 0,
    attempts_allowed    integer NOT NULL,
    priority            smallint NOT NULL,
    ordered             boolean NOT NULL,
    passes_when_dead    boolean NOT NULL,
    channel_name        text NOT NULL,
    channel_args        text NOT NULL,
    name                text NOT NULL,
    payload_json        json,
    payload_bytes       bytea,
    last_error          text,
    headers             json
) WITH (
    fillfactor = 90,
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_vacuum_cost_delay = 0
);

COMMENT ON TABLE mq_msgs IS 'The jobs that are not done yet: one row each, deleted when the job is complete.';
COMMENT ON COLUMN mq_msgs.id IS 'The job''s id, given by the sender.';
COMMENT ON COLUMN mq_msgs.channel IS 'Key of the channel: mq_channel_key(channel_name, channel_args).';
COMMENT ON COLUMN mq_msgs.position IS 'Place in the order of sending, over all channels.';
COMMENT ON COLUMN mq_msgs.created_at IS 'When the job was sent.';
COMMENT ON COLUMN mq_msgs.due_at IS 'When the job becomes due, if it was delayed or is to be retried later; NULL: at once.';
COMMENT ON COLUMN mq_msgs.reserved_until IS 'A reservation (two-phase commit) ends then; NULL: the job is committed.';
COMMENT ON COLUMN mq_msgs.leased_until IS 'How far keep-alive has pushed the lease of the current attempt; NULL: the claim''s deadline counts.';
COMMENT ON COLUMN mq_msgs.died_at IS 'When the last attempt was used up, or an attempt failed for good; NULL: the job is not dead.';
COMMENT ON COLUMN mq_msgs.cancel_requested_at IS 'When mq_cancel met the job running: it is removed as soon as its holder lets go of it.';
COMMENT ON COLUMN mq_msgs.retry_backoff IS 'Least lease of the next attempt, and wait after its failure; doubles with every attempt.';
COMMENT ON COLUMN mq_msgs.attempts_ended IS 'Attempts that ended without completion. The attempt under way, or the next, is this number plus one.';
COMMENT ON COLUMN mq_msgs.attempts_allowed IS 'How many attempts the job may have in all.';
COMMENT ON COLUMN mq_msgs.priority IS 'Smaller first, within the channel; 0 for ordered jobs, which ignore it.';
COMMENT ON COLUMN mq_msgs.ordered IS 'Whether the job runs in strict order with the other ordered jobs of its channel.';
COMMENT ON COLUMN mq_msgs.passes_when_dead IS 'An ordered job that is dead lets the ones behind it pass, instead of holding them.';
COMMENT ON COLUMN mq_msgs.channel_name IS 'Name of the channel: what workers subscribe to.';
COMMENT ON COLUMN mq_msgs.channel_args IS 'Arguments of the channel: with the name, the unit of order and of fairness.';
COMMENT ON COLUMN mq_msgs.name IS 'Name of the job: what the worker is to run.';
COMMENT ON COLUMN mq_msgs.payload_json IS 'The JSON payload, as it was sent.';
COMMENT ON COLUMN mq_msgs.payload_bytes IS 'The binary payload.';
COMMENT ON COLUMN mq_msgs.last_error IS 'Why the latest attempt that ended did not complete the job.';
COMMENT ON COLUMN mq_msgs.headers IS 'What travels beside the payload, a JSON object of strings: the sender''s trace, for example, as W3C names it, so that the worker can go on with it.';

-- sql/tables/tickets.sql
-- A job is where its ticket lies. Moving a job means moving its ticket; a job without any ticket is
-- running. A ticket whose job is gone (somebody deleted the row by hand) is dropped when it is met.
CREATE TABLE mq_ready (
    channel  uuid NOT NULL,
    priority smallint NOT NULL,
    position bigint NOT NULL,
    id       uuid NOT NULL,
    epoch    integer NOT NULL DEFAULT 1,
    PRIMARY KEY (epoch, channel, priority, position)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
COMMENT ON TABLE mq_ready IS 'Tickets of the jobs that can be claimed now. Its key, read as a ring of channels, is what polls walk.';
COMMENT ON COLUMN mq_ready.epoch IS 'The epoch in which the ticket was issued (mq_epoch), or into which it was carried over.';
COMMENT ON COLUMN mq_ready.channel IS 'The job''s channel.';
COMMENT ON COLUMN mq_ready.priority IS 'The job''s priority.';
COMMENT ON COLUMN mq_ready.position IS 'The job''s position.';
COMMENT ON COLUMN mq_ready.id IS 'The job.';

CREATE TABLE mq_scheduled (
    due_at timestamptz NOT NULL,
    id     uuid NOT NULL,
    PRIMARY KEY (due_at, id)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
COMMENT ON TABLE mq_scheduled IS 'Tickets of the jobs that wait for a time: delayed, backing off, or reserved.';
COMMENT ON COLUMN mq_scheduled.due_at IS 'The end of the job''s reservation while it is reserved, else the time at which it becomes due.';
COMMENT ON COLUMN mq_scheduled.id IS 'The job.';

CREATE TABLE mq_blocked (
    channel  uuid NOT NULL,
    position bigint NOT NULL,
    id       uuid NOT NULL,
    PRIMARY KEY (channel, position)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
COMMENT ON TABLE mq_blocked IS 'Tickets of the ordered jobs that wait behind an earlier one.';
COMMENT ON COLUMN mq_blocked.channel IS 'The job''s channel.';
COMMENT ON COLUMN mq_blocked.position IS 'The job''s position.';
COMMENT ON COLUMN mq_blocked.id IS 'The job.';

CREATE TABLE mq_dead (
    died_at timestamptz NOT NULL,
    id      uuid NOT NULL,
    PRIMARY KEY (died_at, id)
);
COMMENT ON TABLE mq_dead IS 'Tickets of the jobs whose attempts are used up, or that failed for good.';
COMMENT ON COLUMN mq_dead.died_at IS 'When the job died.';
COMMENT ON COLUMN mq_dead.id IS 'The job.';

-- sql/tables/epochs.sql
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

CREATE TABLE mq_late_epochs (
    epoch integer PRIMARY KEY
);
COMMENT ON TABLE mq_late_epochs IS 'Epochs before mq_first_epoch which some open transaction holds on to; what it leaves there is carried over to the current one.';
COMMENT ON COLUMN mq_late_epochs.epoch IS 'The epoch.';

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

-- sql/tables/mq_claims.sql
-- One row for the whole batch that a poll took. Completion leaves it alone; when its deadline has
-- passed, a poll removes it and takes back the jobs that are still at the attempt it names. The
-- deadline is never far off: rows whose jobs are done are not to pile up until a long lease is over.
CREATE SEQUENCE mq_claim_number AS bigint;
COMMENT ON SEQUENCE mq_claim_number IS 'Numbers the claims.';

CREATE TABLE mq_claims (
    deadline     timestamptz NOT NULL,
    claim        bigint NOT NULL,
    leased_until timestamptz NOT NULL,
    ids          uuid[] NOT NULL,
    positions    bigint[] NOT NULL,
    attempts     integer[] NOT NULL,
    worker       text,
    PRIMARY KEY (deadline, claim)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
COMMENT ON TABLE mq_claims IS 'Batches of jobs that polls have handed out, until their leases are over.';
COMMENT ON COLUMN mq_claims.deadline IS 'When a poll looks at the claim again: at the end of the leases, or before.';
COMMENT ON COLUMN mq_claims.claim IS 'Number of the claim.';
COMMENT ON COLUMN mq_claims.leased_until IS 'When the leases end, unless keep-alive has pushed them further.';
COMMENT ON COLUMN mq_claims.ids IS 'The jobs.';
COMMENT ON COLUMN mq_claims.positions IS 'Their positions: an id can be sent again once its job is done, a position cannot.';
COMMENT ON COLUMN mq_claims.attempts IS 'The attempt number under which each of the jobs was handed out.';
COMMENT ON COLUMN mq_claims.worker IS 'Who polled: what it said of itself, else its application_name.';

-- sql/tables/channel_order.sql
-- Senders of ordered jobs queue on their channel's row in mq_chains until they commit, so that
-- positions are given out in commit order. Whoever finishes the head never waits for a sender: it
-- touches mq_heads only, and when it sees nobody behind the head it leaves the channel to the next
-- poll, by a row in mq_idle_channels; a sender may be about to commit behind it.
CREATE TABLE mq_chains (
    channel    uuid PRIMARY KEY,
    looks_back boolean NOT NULL DEFAULT false
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
COMMENT ON TABLE mq_chains IS 'Channels with ordered jobs; senders of ordered jobs lock the row until they commit.';
COMMENT ON COLUMN mq_chains.channel IS 'The channel.';
COMMENT ON COLUMN mq_chains.looks_back IS 'Whether a job that had let others pass was given another try: the next one may lie before the one that is finished.';

-- There is one row a channel. The key holds the job, too, since whoever finishes it looks for both: the
-- channel's dead rows, which may not be cleaned away while an old snapshot is held, are not met then.
CREATE TABLE mq_heads (
    channel uuid NOT NULL,
    id      uuid NOT NULL,
    PRIMARY KEY (channel, id)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
COMMENT ON TABLE mq_heads IS 'The ordered job whose turn it is, for each channel with ordered jobs.';
COMMENT ON COLUMN mq_heads.channel IS 'The channel.';
COMMENT ON COLUMN mq_heads.id IS 'The job whose turn it is.';

CREATE TABLE mq_idle_channels (
    channel uuid PRIMARY KEY
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
COMMENT ON TABLE mq_idle_channels IS 'Channels whose head was finished with nobody seen behind it; the next poll settles them.';
COMMENT ON COLUMN mq_idle_channels.channel IS 'The channel.';

-- sql/tables/sleepers.sql
-- NOTIFY makes senders commit one after the other, so it is sent only to who may be asleep. A session that
-- polls with notify_me => 'asleep' holds an advisory lock for each of its channel names from a poll that
-- found nothing until one that found something. Of the others, clients of the sqlxmq crate among them, it
-- is known only until when the last of them may sleep.
CREATE SEQUENCE mq_notified_until MINVALUE 0 START 0;
COMMENT ON SEQUENCE mq_notified_until IS 'Until then somebody may sleep who does not say when he wakes up, and every send notifies, in seconds since 1970. Not dumped.';

CREATE SEQUENCE mq_notified_since MINVALUE 0 START 0;
COMMENT ON SEQUENCE mq_notified_since IS 'Number of the transaction before which a sender may have seen nobody whom that time is for. Not dumped.';

CREATE VIEW mq_sleeps_for AS
SELECT objid::integer AS key
FROM pg_locks
WHERE locktype = 'advisory' AND pid = pg_backend_pid()
  AND classid = 'mq_notified_until'::regclass::oid AND objsubid = 2;
COMMENT ON VIEW mq_sleeps_for IS 'Internal. The channel names, as their hashes (0: all), for which this session holds the lock that says that it is asleep.';

-- sql/tables/mq_settings.sql
-- No row is inserted here: a restored dump brings its own, and must not meet another.
CREATE TABLE mq_settings (
    is_only_row    boolean PRIMARY KEY DEFAULT true CHECK (is_only_row),
    dead_retention interval
);
COMMENT ON TABLE mq_settings IS 'Settings of this queue; see mq_configure.';
COMMENT ON COLUMN mq_settings.is_only_row IS 'Allows one row only.';
COMMENT ON COLUMN mq_settings.dead_retention IS 'How long dead jobs are kept; NULL: until somebody retries or clears them.';

-- sql/tables/mq_new_t.sql
CREATE TYPE mq_new_t AS (
    id              uuid,
    delay           interval,
    retries         integer,
    retry_backoff   interval,
    channel_name    text,
    channel_args    text,
    commit_interval interval,
    ordered         boolean,
    name            text,
    payload_json    text,
    payload_bytes   bytea
);
COMMENT ON TYPE mq_new_t IS 'A job to send with mq_insert: the wire format of the sqlxmq crate.';
COMMENT ON COLUMN mq_new_t.id IS 'The job''s id.';
COMMENT ON COLUMN mq_new_t.delay IS 'How long the job waits before it is due.';
COMMENT ON COLUMN mq_new_t.retries IS 'Attempts after the first.';
COMMENT ON COLUMN mq_new_t.retry_backoff IS 'Least lease of the first attempt; doubles at every claim.';
COMMENT ON COLUMN mq_new_t.channel_name IS 'Name of the channel.';
COMMENT ON COLUMN mq_new_t.channel_args IS 'Arguments of the channel.';
COMMENT ON COLUMN mq_new_t.commit_interval IS 'NULL, or: only reserve the job, until mq_commit or until delay plus this has passed.';
COMMENT ON COLUMN mq_new_t.ordered IS 'Whether the job runs in strict order with the other ordered jobs of its channel.';
COMMENT ON COLUMN mq_new_t.name IS 'Name of the job.';
COMMENT ON COLUMN mq_new_t.payload_json IS 'JSON payload.';
COMMENT ON COLUMN mq_new_t.payload_bytes IS 'Binary payload.';

-- Small helpers

-- sql/internal/mq_channel_key.sql
-- High half: the name; low half: the arguments. All channels of one name thus lie side by side in
-- every index that begins with the key, and a poll for a name walks one arc of the ring. SHA-256
-- (64 bits of it each) rather than PostgreSQL's own hashes: the same on every platform, version and
-- encoding that a dump may be restored to, and allowed where MD5 is not.
-- Internal. The body is parsed when it is created: it depends on no search_path, and is inlined.
CREATE FUNCTION mq_channel_key(channel_name text, channel_args text) RETURNS uuid
LANGUAGE sql STABLE PARALLEL SAFE
RETURN pg_catalog.encode(
    pg_catalog.substr(pg_catalog.sha256(pg_catalog.convert_to(channel_name, 'UTF8')), 1, 8)
        || pg_catalog.substr(pg_catalog.sha256(pg_catalog.convert_to(channel_args, 'UTF8')), 1, 8),
    'hex')::uuid;
COMMENT ON FUNCTION mq_channel_key IS 'Internal. The key of a channel: half from its name, half from its arguments.';

-- sql/internal/mq_new_id.sql
-- UUID version 7 (RFC 9562): 48 bits of milliseconds, then random bits. Ids that grow with time keep
-- the primary key's inserts on its last page.
-- Internal. The body is parsed when it is created: it depends on no search_path.
CREATE FUNCTION mq_new_id() RETURNS uuid
LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN pg_catalog.encode(
    pg_catalog.set_bit(pg_catalog.set_bit(
        pg_catalog."overlay"(
            pg_catalog.uuid_send(pg_catalog.gen_random_uuid()),
            pg_catalog.substr(
                pg_catalog.int8send((EXTRACT(epoch FROM pg_catalog.clock_timestamp()) * 1000)::bigint),
                3),
            1, 6),
        52, 1), 53, 1),
    'hex')::uuid;
COMMENT ON FUNCTION mq_new_id IS 'Internal. A new, time-ordered job id (UUID version 7).';

-- sql/functions/mq_notify_channel.sql
-- Purpose: which channel to LISTEN on for jobs of a channel name.
-- Returns: 'mq_' || channel_name where that is at most 63 bytes long, the most that NOTIFY takes;
--          else 'mq_' and the first 60 hexadecimal digits of the SHA-256 of the name's UTF-8 bytes.
-- Locks:   none.
-- Errors:  none; NULL gives NULL.
-- Callers: producer, worker, observer, operator.
CREATE FUNCTION mq_notify_channel(channel_name text) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE
    WHEN pg_catalog.octet_length(channel_name) <= 60 THEN 'mq_' || channel_name
    ELSE 'mq_' || pg_catalog."left"(pg_catalog.encode(
        pg_catalog.sha256(pg_catalog.convert_to(channel_name, 'UTF8')), 'hex'), 60)
END;
COMMENT ON FUNCTION mq_notify_channel IS 'The NOTIFY channel on which jobs of a channel name are announced.';

-- sql/internal/mq_refuse.sql
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

-- sql/internal/mq_is_acceptable.sql
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

-- sql/internal/mq_parse_json.sql
-- Internal. Makes JSON of texts, and names the first one that is none.
-- Errors:  22P02 malformed JSON; the argument is named, with the message's number if there are several.
CREATE FUNCTION mq_parse_json(argument text, texts text[]) RETURNS json[]
LANGUAGE plpgsql
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    one record;
BEGIN
    -- Nothing is written in these blocks, so their subtransactions cost no transaction id.
    RETURN texts::json[];
EXCEPTION WHEN data_exception OR statement_too_complex THEN
    FOR one IN SELECT given.document, given.n FROM unnest(texts) WITH ORDINALITY AS given (document, n) LOOP
        BEGIN
            PERFORM one.document::json;
        EXCEPTION WHEN data_exception OR statement_too_complex THEN
            PERFORM mq_refuse('22P02',
                CASE cardinality(texts) WHEN 1 THEN argument ELSE format('%s of message %s', argument, one.n) END,
                quote_literal(left(one.document, 100)), format('it must be JSON (%s)', SQLERRM));
        END;
    END LOOP;
    RAISE;
END
$$;
COMMENT ON FUNCTION mq_parse_json IS 'Internal. Makes JSON of texts, and refuses what is none.';

-- sql/internal/mq_check_ids.sql
-- Internal. What all functions that take lists of jobs ask of them.
-- attempts may be NULL where the function allows it to be left out.
CREATE FUNCTION mq_check_ids(msg_ids uuid[], attempts integer[], attempts_are_needed boolean) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    IF msg_ids IS NULL THEN
        PERFORM mq_refuse('22004', 'msg_ids', NULL, 'it must be an array of job ids');
    ELSIF array_ndims(msg_ids) > 1 THEN
        PERFORM mq_refuse('22023', 'msg_ids', msg_ids::text, 'it must have one dimension');
    ELSIF array_position(msg_ids, NULL) IS NOT NULL THEN
        PERFORM mq_refuse('22004', format('msg_ids[%s]', array_position(msg_ids, NULL)), NULL,
            'every job id must be given');
    END IF;
    IF attempts IS NULL THEN
        IF attempts_are_needed THEN
            PERFORM mq_refuse('22004', 'attempts', NULL, 'it must hold the attempt number of every job');
        END IF;
    ELSIF cardinality(attempts) <> cardinality(msg_ids) THEN
        PERFORM mq_refuse('22023', 'attempts', format('of length %s', cardinality(attempts)),
            format('it must be as long as msg_ids, %s', cardinality(msg_ids)));
    ELSIF array_ndims(attempts) > 1 THEN
        PERFORM mq_refuse('22023', 'attempts', attempts::text, 'it must have one dimension');
    ELSIF array_position(attempts, NULL) IS NOT NULL THEN
        PERFORM mq_refuse('22004', format('attempts[%s]', array_position(attempts, NULL)), NULL,
            'every attempt number must be given');
    END IF;
END
$$;
COMMENT ON FUNCTION mq_check_ids IS 'Internal. Refuses malformed lists of job ids and attempt numbers.';

-- sql/internal/mq_check_channel_names.sql
-- Internal. What all functions that take channel names ask of the array, which is not NULL.
CREATE FUNCTION mq_check_channel_names(channel_names text[]) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    IF array_ndims(channel_names) > 1 THEN
        PERFORM mq_refuse('22023', 'channel_names', channel_names::text, 'it must have one dimension');
    ELSIF array_position(channel_names, NULL) IS NOT NULL THEN
        PERFORM mq_refuse('22004', format('channel_names[%s]', array_position(channel_names, NULL)), NULL,
            'every channel name must be given; for all channels, pass NULL for the array');
    END IF;
END
$$;
COMMENT ON FUNCTION mq_check_channel_names IS 'Internal. Refuses malformed arrays of channel names.';

-- sql/internal/mq_raise_lost_lease.sql
-- Internal. SQLSTATE MQ001 is the fence: it rolls back the transaction of a worker that is late, with
-- all it wrote.
CREATE FUNCTION mq_raise_lost_lease(msg_id uuid, attempt integer) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    job mq_msgs;
BEGIN
    SELECT * INTO job FROM mq_msgs WHERE mq_msgs.id = msg_id;
    RAISE EXCEPTION USING
        ERRCODE = 'MQ001',
        MESSAGE = format('job %s is not held at attempt %s', msg_id, attempt),
        DETAIL = CASE
            WHEN job.id IS NULL THEN 'The job is not in the queue: it was completed, cancelled or cleared.'
            ELSE format('Attempts of the job that have ended so far: %s.', job.attempts_ended)
        END,
        HINT = 'Somebody else may hold the job by now. Roll back and drop this attempt.';
END
$$;
COMMENT ON FUNCTION mq_raise_lost_lease IS 'Internal. Raises MQ001: the caller does not hold the job at this attempt.';

-- sql/internal/mq_somebody_holds.sql
-- Internal. Whether another session holds the advisory lock. It tries to take it and lets go of it at once.
CREATE FUNCTION mq_somebody_holds(class integer, key integer) RETURNS boolean
LANGUAGE sql VOLATILE
RETURN CASE WHEN pg_catalog.pg_try_advisory_lock(class, key) THEN NOT pg_catalog.pg_advisory_unlock(class, key) ELSE true END;
COMMENT ON FUNCTION mq_somebody_holds IS 'Internal. Whether another session holds an advisory lock.';

-- Epochs, against dead entries that cannot be cleaned away

-- sql/internal/mq_join_epoch.sql
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

-- sql/internal/mq_begin_epoch.sql
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

-- sql/internal/mq_carry_over.sql
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

-- sql/internal/mq_somebody_may_sleep.sql
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
CREATE FUNCTION mq_notify(channel_names text[]) RETURNS void
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

-- sql/internal/mq_notify_until.sql
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
-- Internal. This session has work and polls again by itself: senders need not notify it.
CREATE FUNCTION mq_wake_up() RETURNS void
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

-- Running jobs, the fence

-- sql/views/mq_held.sql
-- The one place that says what running means: the job has no ticket anywhere. Functions of the
-- worker's side delete and update through this view, by id and attempt; that is the fence.
-- Each look-up is a scalar subquery, not NOT EXISTS: the planner can make no join and no hash table
-- of it, so it stays one index probe whatever the statistics say.
CREATE VIEW mq_held AS
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

-- sql/internal/mq_join_channels.sql
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

-- sql/internal/mq_place_ordered.sql
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

-- sql/internal/mq_issue_ticket.sql
-- Internal. Lets a job go that nothing is in front of: it is ready, or scheduled for its time.
-- Returns: whether it is ready.
CREATE FUNCTION mq_issue_ticket(job mq_msgs) RETURNS boolean
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

-- sql/internal/mq_advance_channel.sql
-- Internal. The head of the channel's order is finished: it is the next one's turn.
-- It is looked for behind the finished one, since what lies before may be long dead and still have to be
-- stepped over; or from the beginning, where a job that had passed was given another try.
-- With nobody to be seen behind the head, or somebody whose row is locked (it is being cancelled, say),
-- the channel is left to the next poll (mq_settle_idle_channels).
-- mq_leave_channel does the same, for many channels in one statement, where the next job can simply run.
-- Locks:   the next job's ticket and row, without waiting.
CREATE FUNCTION mq_advance_channel(finished mq_msgs) RETURNS void
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

-- sql/internal/mq_settle_idle_channels.sql
-- Internal. For channels whose head was finished with nobody seen behind it. With the channel's row
-- locked no sender is about to commit, so what is seen now is all there is: somebody's turn, or the
-- end of the channel. A channel whose row a sender holds is left for a later poll; that sender's
-- commit wakes one.
-- Locks:   the channels' rows, without waiting.
CREATE FUNCTION mq_settle_idle_channels() RETURNS void
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
CREATE FUNCTION mq_insert(
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
CREATE FUNCTION mq_enqueue(
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
CREATE FUNCTION mq_enqueue_many(
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

-- sql/functions/mq_enqueue_trigger.sql
-- Purpose: trigger function that sends a row change as a job:
--            CREATE TRIGGER … AFTER INSERT ON orders FOR EACH ROW
--            EXECUTE FUNCTION mq_enqueue_trigger('ship_order', 'channel_name=orders', 'retries=9')
-- Arguments (of the trigger): the job's name, then options as 'option=value': channel_name,
--          channel_args, delay, retries, retry_backoff, ordered, priority, when_dead as in mq_enqueue;
--          channel_args_column, the column whose value becomes the channel's arguments (one order for
--          each customer, say); columns, a comma-separated list of the columns to send (default: all).
-- Payload: {"operation": "INSERT" | "UPDATE" | "DELETE", "schema": …, "table": …,
--           "new": {…} or null, "old": {…} or null}
-- Returns: the row (so that it can stand in a BEFORE trigger, too).
-- Locks:   as mq_enqueue.
-- Errors:  22023 no job name, an unknown option or column, or not a row trigger; those of mq_enqueue;
--          22P02 or 22007 for a malformed option value.
-- Callers: producer, operator: who creates the trigger, and who changes the row. It runs with the
--          rights of the latter, since making JSON of a row can call functions of the row's types.
CREATE FUNCTION mq_enqueue_trigger() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    known   CONSTANT text[] := ARRAY['channel_name', 'channel_args', 'channel_args_column', 'delay', 'retries',
                                     'retry_backoff', 'ordered', 'priority', 'when_dead', 'columns'];
    options jsonb := '{}'::jsonb;
    option  text;
    new_row jsonb;
    old_row jsonb;
    subject jsonb;
    wanted  text[];
BEGIN
    IF TG_LEVEL <> 'ROW' THEN
        RAISE EXCEPTION USING ERRCODE = '22023',
            MESSAGE = format('trigger %I is FOR EACH STATEMENT, but it must be FOR EACH ROW', TG_NAME);
    ELSIF TG_NARGS = 0 THEN
        RAISE EXCEPTION USING ERRCODE = '22023',
            MESSAGE = format('trigger %I is without arguments, but its first argument must be the job''s name', TG_NAME);
    END IF;
    FOREACH option IN ARRAY TG_ARGV[1:] LOOP
        IF position('=' IN option) = 0 OR split_part(option, '=', 1) <> ALL (known) THEN
            RAISE EXCEPTION USING ERRCODE = '22023',
                MESSAGE = format('argument of trigger %I is %L, but it must be option=value with one of the options %s',
                                 TG_NAME, option, array_to_string(known, ', '));
        END IF;
        options := options || jsonb_build_object(split_part(option, '=', 1), substr(option, position('=' IN option) + 1));
    END LOOP;

    new_row := CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) END;
    old_row := CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) END;
    subject := coalesce(new_row, old_row);
    wanted := string_to_array(options ->> 'columns', ',');
    FOREACH option IN ARRAY coalesce(wanted, '{}') || coalesce(ARRAY[options ->> 'channel_args_column'], '{}') LOOP
        IF option IS NOT NULL AND NOT subject ? option THEN
            RAISE EXCEPTION USING ERRCODE = '22023',
                MESSAGE = format('argument of trigger %I is %L, but it must name a column of %I.%I',
                                 TG_NAME, option, TG_TABLE_SCHEMA, TG_TABLE_NAME);
        END IF;
    END LOOP;
    IF wanted IS NOT NULL THEN
        new_row := (SELECT jsonb_object_agg(key, value) FROM jsonb_each(new_row) WHERE key = ANY (wanted));
        old_row := (SELECT jsonb_object_agg(key, value) FROM jsonb_each(old_row) WHERE key = ANY (wanted));
    END IF;

    PERFORM mq_enqueue(
        TG_ARGV[0],
        jsonb_build_object('operation', TG_OP, 'schema', TG_TABLE_SCHEMA, 'table', TG_TABLE_NAME,
                           'new', new_row, 'old', old_row),
        channel_name => coalesce(options ->> 'channel_name', ''),
        channel_args => coalesce(subject ->> (options ->> 'channel_args_column'), options ->> 'channel_args', ''),
        delay => coalesce((options ->> 'delay')::interval, '0'),
        retries => coalesce((options ->> 'retries')::integer, 4),
        retry_backoff => coalesce((options ->> 'retry_backoff')::interval, '1 second'),
        ordered => coalesce((options ->> 'ordered')::boolean, false),
        priority => coalesce((options ->> 'priority')::integer, 0),
        when_dead => coalesce(options ->> 'when_dead', 'hold'));
    RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
END
$$;
COMMENT ON FUNCTION mq_enqueue_trigger IS 'Trigger function: sends the row change as a job.';

-- sql/functions/mq_commit.sql
-- Purpose: second phase of a two-phase send: reserved jobs become real, due when they would have been.
-- Returns: the ids that were reserved and are committed now. A reservation that is over, a job that
--          was never reserved and an unknown id are passed over.
-- Locks:   the jobs' rows.
-- Errors:  22004 msg_ids is NULL or holds a NULL.
-- Callers: producer, operator.
CREATE FUNCTION mq_commit(msg_ids uuid[]) RETURNS SETOF uuid
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
SET enable_seqscan = off
SET jit = off
AS $$
DECLARE
    job           mq_msgs;
    is_blocked    boolean;
    was_reserved  timestamptz;
    channel_names text[] := ARRAY[]::text[];
BEGIN
    PERFORM mq_check_ids(msg_ids, NULL, false);
    FOR job IN
        SELECT * FROM mq_msgs
        WHERE id = ANY (msg_ids) AND reserved_until > clock_timestamp() ORDER BY position
    LOOP
        -- First the ticket, then the job: the order in which mq_advance_channel takes them.
        PERFORM FROM mq_blocked WHERE channel = job.channel AND position = job.position AND job.ordered FOR UPDATE;
        is_blocked := FOUND;
        SELECT reserved_until INTO was_reserved FROM mq_msgs WHERE id = job.id FOR UPDATE;
        CONTINUE WHEN was_reserved IS NULL;
        UPDATE mq_msgs SET reserved_until = NULL WHERE id = job.id;
        DELETE FROM mq_scheduled WHERE due_at = was_reserved AND id = job.id;
        IF NOT is_blocked THEN
            PERFORM mq_issue_ticket(job);
        END IF;
        channel_names := channel_names || job.channel_name;
        RETURN NEXT job.id;
    END LOOP;
    PERFORM mq_notify(channel_names);
END
$$;
COMMENT ON FUNCTION mq_commit IS 'Commits reserved jobs (two-phase send); returns the ids that were still reserved.';

-- Claiming

-- sql/internal/mq_end_attempt.sql
-- Internal. An attempt has ended without completion: by failure, by the end of its lease, or given
-- back. The caller holds the job's row locked and knows that the attempt is under way.
-- Arguments: retry_in, how long to wait before the next attempt (0: none); is_counted, whether the
--          attempt is used up. Either way its number is not given out again: it is the fence.
--          is_final, whether the job is dead whatever attempts are left.
-- Returns: where the job went: 'ready', 'scheduled', 'dead', or 'cancelled' (removed).
CREATE FUNCTION mq_end_attempt(job mq_msgs, error text, retry_in interval, is_counted boolean, is_final boolean) RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    this_moment CONSTANT timestamptz := clock_timestamp();
BEGIN
    IF job.cancel_requested_at IS NOT NULL THEN
        DELETE FROM mq_msgs WHERE id = job.id;
        RETURN 'cancelled';
    END IF;
    UPDATE mq_msgs SET
        attempts_ended = attempts_ended + 1,
        attempts_allowed = attempts_allowed + CASE WHEN is_counted THEN 0 ELSE 1 END,
        retry_backoff = CASE
            -- Doubling stops at a year, so that no interval overflows.
            WHEN NOT is_counted OR retry_backoff > interval '1 year' THEN retry_backoff
            ELSE retry_backoff * 2
        END,
        leased_until = NULL,
        last_error = coalesce(left(error, 10000), last_error),
        died_at = CASE WHEN is_final OR is_counted AND attempts_ended + 1 >= attempts_allowed THEN this_moment END,
        due_at = CASE WHEN retry_in > interval '0' THEN this_moment + retry_in END
    WHERE id = job.id
    RETURNING * INTO job;
    IF job.died_at IS NULL THEN
        RETURN CASE WHEN mq_issue_ticket(job) THEN 'ready' ELSE 'scheduled' END;
    END IF;
    INSERT INTO mq_dead (died_at, id) VALUES (job.died_at, job.id);
    IF job.ordered AND job.passes_when_dead THEN
        PERFORM mq_advance_channel(job);
    END IF;
    PERFORM mq_forget_dead(10);
    RETURN 'dead';
END
$$;
COMMENT ON FUNCTION mq_end_attempt IS 'Internal. Ends an attempt that did not complete its job: the job waits again, or is dead.';

-- sql/internal/mq_take_back_expired.sql
-- Internal. Looks at claims whose deadline has passed: their jobs that still exist and are still at the
-- attempt of the claim are taken back, or, leased for longer, claimed on. It stops after ten claims, or
-- after the first with which it has looked at two hundred jobs, so that no poll has to do much of it.
-- Arguments: since, nothing earlier is looked for.
-- Locks:   the claims, then the jobs, without waiting: a job whose row somebody has locked or just changed
--          is being completed, failed or kept alive right now, and is looked at again a second later.
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

-- sql/internal/mq_forget_dead.sql
-- Internal. Deletes dead jobs that are older than the retention allows, the oldest first.
-- Locks:   tickets and jobs, without waiting: a locked one is being retried or removed.
-- Called where it cannot slow down a busy queue: when a job dies, and when a poll finds nothing.
CREATE FUNCTION mq_forget_dead(most_jobs integer) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, @extschema@, pg_temp
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET jit = off
AS $$
DECLARE
    retention interval;
    old       record;
BEGIN
    SELECT dead_retention INTO retention FROM mq_settings WHERE is_only_row;
    IF retention IS NULL THEN
        RETURN;
    END IF;
    FOR old IN
        SELECT ticket.died_at, ticket.id FROM mq_dead AS ticket
        WHERE ticket.died_at <= clock_timestamp() - retention
        ORDER BY ticket.died_at LIMIT most_jobs FOR UPDATE SKIP LOCKED
    LOOP
        PERFORM FROM mq_msgs WHERE mq_msgs.id = old.id AND mq_msgs.died_at = old.died_at FOR UPDATE SKIP LOCKED;
        IF FOUND THEN
            DELETE FROM mq_msgs WHERE mq_msgs.id = old.id;
        ELSIF EXISTS (SELECT FROM mq_msgs WHERE mq_msgs.id = old.id AND mq_msgs.died_at = old.died_at) THEN
            CONTINUE;
        END IF;
        DELETE FROM mq_dead WHERE mq_dead.died_at = old.died_at AND mq_dead.id = old.id;
    END LOOP;
END
$$;
COMMENT ON FUNCTION mq_forget_dead IS 'Internal. Deletes dead jobs that have been kept long enough.';

-- sql/internal/mq_set_marks.sql
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

-- Reporting: the worker's side

-- sql/functions/mq_keep_alive.sql
-- Purpose: push the leases of running jobs, or the ends of open reservations, to at least now plus
--          duration; never shortens them. The holder learns here whether it still is the holder.
-- Arguments: msg_ids; duration; attempts, the attempt number of each job (NULL: whatever attempt is
--          under way, as the crate does it).
-- Returns: a row for each id: is_held, whether the caller (with attempts NULL: anybody) still holds
--          the job or the reservation is still open; is_cancelled, whether somebody has asked to cancel
--          it: the holder is to stop and to let go of it.
-- Locks:   the jobs' rows, without waiting: a running job whose row is locked is being completed or
--          check-pointed, perhaps in a long transaction. It counts as held, and no poll takes it back
--          as long as the lock lasts; the next keep-alive pushes it on.
-- Errors:  22004, 22023 for bad arguments.
-- Callers: worker, operator.
CREATE FUNCTION mq_keep_alive(
    msg_ids  uuid[],
    duration interval,
    attempts integer[] DEFAULT NULL
) RETURNS TABLE (msg_id uuid, is_held boolean, is_cancelled boolean)
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
    this_moment CONSTANT timestamptz := clock_timestamp();
    one         record;
    cancelled   timestamptz;
    ended       timestamptz;
BEGIN
    PERFORM mq_check_ids(msg_ids, attempts, false);
    IF duration IS NULL THEN
        PERFORM mq_refuse('22004', 'duration', NULL, 'it must be given');
    ELSIF duration < interval '0' OR duration > interval '1000 years' THEN
        PERFORM mq_refuse('22023', 'duration', duration::text, 'it must be between 0 and 1000 years');
    END IF;
    FOR one IN SELECT wanted.id, wanted.attempt FROM unnest(msg_ids, attempts) AS wanted (id, attempt) ORDER BY id LOOP
        msg_id := one.id;
        SELECT job.cancel_requested_at INTO cancelled FROM mq_held AS job
        WHERE job.id = one.id AND (attempts IS NULL OR job.attempt = one.attempt) FOR UPDATE SKIP LOCKED;
        is_held := FOUND;
        IF is_held THEN
            UPDATE mq_msgs AS job SET leased_until = greatest(job.leased_until, this_moment + duration)
            WHERE job.id = one.id;
        ELSE
            SELECT job.cancel_requested_at INTO cancelled FROM mq_held AS job
            WHERE job.id = one.id AND (attempts IS NULL OR job.attempt = one.attempt);
            is_held := FOUND;
        END IF;
        is_cancelled := is_held AND cancelled IS NOT NULL;
        IF NOT is_held AND attempts IS NULL THEN
            SELECT job.reserved_until INTO ended FROM mq_msgs AS job
            WHERE job.id = one.id AND job.reserved_until > this_moment FOR UPDATE;
            is_held := FOUND;
            IF is_held AND ended < this_moment + duration THEN
                UPDATE mq_msgs AS job SET reserved_until = this_moment + duration WHERE job.id = one.id;
                DELETE FROM mq_scheduled AS ticket WHERE ticket.due_at = ended AND ticket.id = one.id;
                INSERT INTO mq_scheduled (due_at, id) VALUES (this_moment + duration, one.id);
            END IF;
        END IF;
        RETURN NEXT;
    END LOOP;
END
$$;
COMMENT ON FUNCTION mq_keep_alive IS 'Pushes the leases of running jobs, and tells their holder whether it still holds them.';

-- sql/functions/mq_checkpoint.sql
-- Purpose: keep a job alive and save its progress for the next attempt, in the caller's transaction.
-- Arguments: msg_id; duration, as in mq_keep_alive; new_payload_json, new_payload_bytes, the payload
--          parts to replace (NULL: leave as it is); extra_retries, attempts to add (NULL: none);
--          attempt, the fence (NULL: whatever attempt is under way, as the crate does it).
-- Returns: nothing.
-- Locks:   the job's row, waiting for whoever has it.
-- Errors:  MQ001 attempt is given and the caller does not hold the job at it; 22004, 22003, 22023,
--          22P02 for bad arguments. Without attempt, an unknown job is passed over.
-- Callers: worker, operator.
CREATE FUNCTION mq_checkpoint(
    msg_id            uuid,
    duration          interval,
    new_payload_json  text,
    new_payload_bytes bytea,
    extra_retries     integer,
    attempt           integer DEFAULT NULL
) RETURNS void
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
    document json;
BEGIN
    IF msg_id IS NULL THEN
        PERFORM mq_refuse('22004', 'msg_id', NULL, 'it must be a job id');
    ELSIF extra_retries NOT BETWEEN 0 AND 1000000 THEN
        PERFORM mq_refuse('22003', 'extra_retries', extra_retries::text, 'it must be between 0 and 1000000');
    END IF;
    document := (mq_parse_json('new_payload_json', ARRAY[new_payload_json]))[1];
    IF attempt IS NOT NULL THEN
        PERFORM FROM mq_held AS job WHERE job.id = msg_id AND job.attempt = mq_checkpoint.attempt FOR UPDATE;
        IF NOT FOUND THEN
            PERFORM mq_raise_lost_lease(msg_id, attempt);
        END IF;
    ELSE
        PERFORM FROM mq_msgs AS job WHERE job.id = msg_id FOR UPDATE;
    END IF;
    -- The row is this transaction's own now: keep-alive meets no lock.
    PERFORM mq_keep_alive(ARRAY[msg_id], duration);
    UPDATE mq_msgs AS job SET
        payload_json = coalesce(document, job.payload_json),
        payload_bytes = coalesce(new_payload_bytes, job.payload_bytes),
        attempts_allowed = least(job.attempts_allowed::bigint + coalesce(extra_retries, 0), 2000000000)
    WHERE job.id = msg_id;
END
$$;
COMMENT ON FUNCTION mq_checkpoint IS 'Keeps a job alive and replaces its payload for the next attempt.';

-- sql/functions/mq_complete.sql
-- Purpose: the job is done. In the transaction of the job's effects this makes them exactly-once: a
--          holder that is late gets an error, and its transaction rolls back with all it wrote.
-- Returns: nothing.
-- Locks:   the job's row; behind an ordered job, the next one's.
-- Errors:  MQ001 the caller does not hold the job at this attempt; 22004 an argument is NULL.
-- Callers: worker, operator.
CREATE FUNCTION mq_complete(msg_id uuid, attempt integer) RETURNS void
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
    DELETE FROM mq_held AS job WHERE job.id = msg_id AND job.attempt = mq_complete.attempt;
    IF NOT FOUND THEN
        IF msg_id IS NULL THEN
            PERFORM mq_refuse('22004', 'msg_id', NULL, 'it must be a job id');
        ELSIF attempt IS NULL THEN
            PERFORM mq_refuse('22004', 'attempt', NULL, 'it must be the attempt number that mq_poll returned');
        END IF;
        PERFORM mq_raise_lost_lease(msg_id, attempt);
    END IF;
END
$$;
COMMENT ON FUNCTION mq_complete(uuid, integer) IS 'Removes a job that is done; raises MQ001 for anyone who does not hold it at this attempt.';

-- Purpose: many jobs are done. Raises for none of them: check what is returned.
-- Returns: the ids of those that the caller held, and that are removed now.
-- Locks:   the jobs' rows, in the order of their ids.
-- Errors:  22004, 22023 malformed lists.
-- Callers: worker, operator.
CREATE FUNCTION mq_complete(msg_ids uuid[], attempts integer[]) RETURNS SETOF uuid
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
    PERFORM mq_check_ids(msg_ids, attempts, true);
    RETURN QUERY
    DELETE FROM mq_held AS job
    USING (SELECT done.id, done.attempt FROM unnest(msg_ids, attempts) AS done (id, attempt) ORDER BY id OFFSET 0) AS done
    WHERE job.id = done.id AND job.attempt = done.attempt
    RETURNING job.id;
END
$$;
COMMENT ON FUNCTION mq_complete(uuid[], integer[]) IS 'Removes jobs that are done; returns the ids that the caller still held.';

-- sql/functions/mq_fail.sql
-- Purpose: an attempt has failed. The job is given back with its error: it waits for its backoff, or
--          for retry_in, and is claimed again; with its attempts used up, or for good, it is dead.
-- Arguments: msg_id; attempt; error, kept as last_error (its first 10000 characters; NULL: leave it);
--          retry_in, how long until the next attempt (0: none; NULL: the backoff); is_final, whether
--          the job is dead at once, whatever attempts are left (mq_retry can revive it).
-- Returns: where the job is now: 'ready', 'scheduled', 'dead', or 'cancelled' (it was to be cancelled,
--          and is removed).
-- Locks:   the job's row.
-- Errors:  MQ001 the caller does not hold the job at this attempt; 22004, 22023 bad arguments.
-- Callers: worker, operator.
CREATE FUNCTION mq_fail(
    msg_id   uuid,
    attempt  integer,
    error    text,
    retry_in interval DEFAULT NULL,
    is_final boolean DEFAULT false
) RETURNS text
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
    job   mq_msgs;
    state text;
BEGIN
    IF msg_id IS NULL THEN
        PERFORM mq_refuse('22004', 'msg_id', NULL, 'it must be a job id');
    ELSIF attempt IS NULL THEN
        PERFORM mq_refuse('22004', 'attempt', NULL, 'it must be the attempt number that mq_poll returned');
    ELSIF retry_in < interval '0' OR retry_in > interval '1000 years' THEN
        PERFORM mq_refuse('22023', 'retry_in', retry_in::text, 'it must be NULL or between 0 and 1000 years');
    ELSIF is_final IS NULL THEN
        PERFORM mq_refuse('22004', 'is_final', NULL, 'it must be true or false');
    END IF;
    PERFORM FROM mq_held AS held WHERE held.id = msg_id AND held.attempt = mq_fail.attempt FOR UPDATE;
    IF NOT FOUND THEN
        PERFORM mq_raise_lost_lease(msg_id, attempt);
    END IF;
    SELECT * INTO job FROM mq_msgs WHERE mq_msgs.id = msg_id;
    state := mq_end_attempt(job, error, coalesce(retry_in, job.retry_backoff), true, is_final);
    -- Also when it is to wait: it may be due sooner than the workers that sleep now expect anything.
    IF state IN ('ready', 'scheduled') THEN
        PERFORM mq_notify(ARRAY[job.channel_name]);
    END IF;
    RETURN state;
END
$$;
COMMENT ON FUNCTION mq_fail(uuid, integer, text, interval, boolean) IS 'Gives a job back whose attempt failed; raises MQ001 for anyone who does not hold it at this attempt.';

-- Purpose: many attempts have failed. Raises for none of them: check what is returned.
-- Arguments: as above, an array each; errors, retry_ins and are_final may be NULL, as may their
--          elements (of are_final: false).
-- Returns: a row for each job that the caller held: its id, and where it is now.
-- Locks:   the jobs' rows, in the order of their ids.
-- Errors:  22004, 22023 malformed lists.
-- Callers: worker, operator.
CREATE FUNCTION mq_fail(
    msg_ids   uuid[],
    attempts  integer[],
    errors    text[],
    retry_ins interval[] DEFAULT NULL,
    are_final boolean[] DEFAULT NULL
) RETURNS TABLE (msg_id uuid, state text)
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
    one record;
BEGIN
    PERFORM mq_check_ids(msg_ids, attempts, true);
    IF cardinality(errors) <> cardinality(msg_ids) THEN
        PERFORM mq_refuse('22023', 'errors', format('of length %s', cardinality(errors)),
            format('it must be NULL or as long as msg_ids, %s', cardinality(msg_ids)));
    ELSIF cardinality(retry_ins) <> cardinality(msg_ids) THEN
        PERFORM mq_refuse('22023', 'retry_ins', format('of length %s', cardinality(retry_ins)),
            format('it must be NULL or as long as msg_ids, %s', cardinality(msg_ids)));
    ELSIF cardinality(are_final) <> cardinality(msg_ids) THEN
        PERFORM mq_refuse('22023', 'are_final', format('of length %s', cardinality(are_final)),
            format('it must be NULL or as long as msg_ids, %s', cardinality(msg_ids)));
    END IF;
    FOR one IN
        SELECT failed.id, failed.attempt, failed.error, failed.retry_in, coalesce(failed.is_final, false) AS is_final
        FROM unnest(msg_ids, attempts, errors, retry_ins, are_final) AS failed (id, attempt, error, retry_in, is_final)
        ORDER BY id
    LOOP
        PERFORM FROM mq_held AS held WHERE held.id = one.id AND held.attempt = one.attempt FOR UPDATE;
        CONTINUE WHEN NOT FOUND;
        msg_id := one.id;
        state := mq_fail(one.id, one.attempt, one.error, one.retry_in, one.is_final);
        RETURN NEXT;
    END LOOP;
END
$$;
COMMENT ON FUNCTION mq_fail(uuid[], integer[], text[], interval[], boolean[]) IS 'Gives jobs back whose attempts failed; returns those that the caller still held.';

-- sql/functions/mq_release.sql
-- Purpose: give jobs back untried (a worker that stops, a job that wants to wait): the attempt is not
--          counted, though its number is used up.
-- Arguments: msg_ids; attempts; due_in, how long until they are due again (0: at once).
-- Returns: the ids of those that the caller held, and that are given back (or, if somebody had asked
--          to cancel them, removed).
-- Locks:   the jobs' rows, in the order of their ids.
-- Errors:  22004, 22023 for bad arguments.
-- Callers: worker, operator.
CREATE FUNCTION mq_release(
    msg_ids  uuid[],
    attempts integer[],
    due_in   interval DEFAULT '0'
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
    one           record;
    job           mq_msgs;
    channel_names text[] := ARRAY[]::text[];
BEGIN
    PERFORM mq_check_ids(msg_ids, attempts, true);
    IF due_in IS NULL OR due_in < interval '0' OR due_in > interval '1000 years' THEN
        PERFORM mq_refuse(CASE WHEN due_in IS NULL THEN '22004' ELSE '22023' END,
            'due_in', due_in::text, 'it must be between 0 and 1000 years');
    END IF;
    FOR one IN SELECT given.id, given.attempt FROM unnest(msg_ids, attempts) AS given (id, attempt) ORDER BY id LOOP
        PERFORM FROM mq_held AS held WHERE held.id = one.id AND held.attempt = one.attempt FOR UPDATE;
        CONTINUE WHEN NOT FOUND;
        SELECT * INTO job FROM mq_msgs WHERE mq_msgs.id = one.id;
        PERFORM mq_end_attempt(job, NULL, due_in, false, false);
        channel_names := channel_names || job.channel_name;
        RETURN NEXT one.id;
    END LOOP;
    PERFORM mq_notify(channel_names);
END
$$;
COMMENT ON FUNCTION mq_release IS 'Gives jobs back without counting the attempt; returns the ids that the caller still held.';

-- sql/internal/mq_remove_tickets.sql
-- Internal. Removes whatever tickets these jobs have; the caller removes the jobs.
-- Locks:   the tickets, waiting for a poll that is just taking them.
CREATE FUNCTION mq_remove_tickets(msg_ids uuid[]) RETURNS void
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
CREATE FUNCTION mq_delete(msg_ids uuid[]) RETURNS void
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
CREATE FUNCTION mq_cancel(msg_ids uuid[]) RETURNS TABLE (msg_id uuid, outcome text)
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

-- sql/functions/mq_retry.sql
-- Purpose: give dead jobs another try. Attempt numbers go on from where they were.
-- Arguments: msg_ids; retries, attempts after the first new one (0 to 1000000); delay, until it is due.
-- Returns: the ids that were dead and wait again now; others are passed over.
-- Locks:   the jobs' rows; for ordered jobs that let others pass, the order of their channels.
-- Errors:  22004, 22003, 22023 for bad arguments.
-- Callers: operator.
CREATE FUNCTION mq_retry(
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

-- sql/internal/mq_clear_jobs.sql
-- Internal. Removes all jobs of these channel names (NULL: of all).
-- Locks:   the order of the channels, in the order of their keys; then the jobs, in the order of their
--          positions, in which turns are given; then their tickets.
CREATE FUNCTION mq_clear_jobs(channel_names text[]) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, @extschema@, pg_temp
SET jit = off
AS $$
DECLARE
    halves CONSTANT text[] := ARRAY(
        SELECT left(mq_channel_key(c, '')::text, 18) FROM unnest(channel_names) AS c);
    closed uuid[];
    ids    uuid[];
BEGIN
    closed := ARRAY(
        SELECT channel FROM mq_chains
        WHERE channel_names IS NULL OR left(channel::text, 18) = ANY (halves)
        ORDER BY channel FOR UPDATE);
    ids := ARRAY(
        SELECT id FROM mq_msgs
        WHERE channel_names IS NULL OR channel_name = ANY (channel_names)
        ORDER BY position FOR UPDATE);
    -- No heads, no turns to give: the jobs leave one by one without a successor. Only the channels that
    -- are locked: others may have been opened since, and go on by themselves.
    DELETE FROM mq_heads WHERE channel = ANY (closed);
    DELETE FROM mq_idle_channels WHERE channel = ANY (closed);
    PERFORM mq_remove_tickets(ids);
    DELETE FROM mq_msgs WHERE id = ANY (ids);
    DELETE FROM mq_chains WHERE channel = ANY (closed);
    -- What is left here are tickets of jobs that were deleted by hand.
    DELETE FROM mq_blocked WHERE channel = ANY (closed);
END
$$;
COMMENT ON FUNCTION mq_clear_jobs IS 'Internal. Removes all jobs of these channel names, or of all.';

-- sql/functions/mq_clear.sql
-- Purpose: remove all jobs of these channel names, whatever their state.
-- Returns: nothing.
-- Locks:   the jobs' rows and tickets, and the order of the channels: it waits for senders of ordered
--          jobs to them. Reads the whole table of jobs.
-- Errors:  22004 channel_names is NULL or holds a NULL.
-- Callers: operator.
CREATE FUNCTION mq_clear(channel_names text[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
SET jit = off
AS $$
BEGIN
    IF channel_names IS NULL THEN
        PERFORM mq_refuse('22004', 'channel_names', NULL, 'it must be an array; to clear all channels, call mq_clear_all');
    END IF;
    PERFORM mq_check_channel_names(channel_names);
    PERFORM mq_clear_jobs(channel_names);
END
$$;
COMMENT ON FUNCTION mq_clear IS 'Removes all jobs of these channel names.';

-- sql/functions/mq_clear_all.sql
-- Purpose: remove all jobs.
-- Returns: nothing.
-- Locks:   all jobs and tickets, row by row, and the order of all channels: it waits for senders of
--          ordered jobs. No table lock beyond that of DELETE.
-- Errors:  none of its own.
-- Callers: operator.
CREATE FUNCTION mq_clear_all() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
SET jit = off
AS $$
BEGIN
    PERFORM mq_clear_jobs(NULL);
    DELETE FROM mq_claims;
END
$$;
COMMENT ON FUNCTION mq_clear_all IS 'Removes all jobs.';

-- sql/functions/mq_configure.sql
-- Purpose: change the settings of this queue.
-- Arguments: dead_retention, how long dead jobs are kept (NULL: until they are retried or cleared).
-- Returns: nothing.
-- Locks:   the settings' row.
-- Errors:  22023 dead_retention is negative or longer than 1000 years.
-- Callers: operator.
CREATE FUNCTION mq_configure(dead_retention interval) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
BEGIN
    IF dead_retention < interval '0' OR dead_retention > interval '1000 years' THEN
        PERFORM mq_refuse('22023', 'dead_retention', dead_retention::text, 'it must be NULL or between 0 and 1000 years');
    END IF;
    INSERT INTO mq_settings (dead_retention) VALUES (mq_configure.dead_retention)
    ON CONFLICT (is_only_row) DO UPDATE SET dead_retention = excluded.dead_retention;
END
$$;
COMMENT ON FUNCTION mq_configure IS 'Changes the settings of this queue.';

-- sql/views/mq_jobs.sql
-- Says what each job's state is now, even where no poll has acted on it yet: a delayed job whose time
-- has come is ready, one whose lease is over is ready or dead, a reservation that is over is not shown.
CREATE VIEW mq_jobs AS
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

-- sql/views/mq_running_jobs.sql
-- From the claims, not from the jobs: costs as much as there is running, whatever the backlog.
CREATE VIEW mq_running_jobs AS
SELECT
    job.id,
    job.name,
    job.channel_name,
    job.channel_args,
    claim.worker,
    one.attempt,
    job.attempts_allowed - one.attempt AS attempts_left,
    greatest(claim.leased_until, job.leased_until) AS leased_until,
    job.cancel_requested_at
FROM mq_claims AS claim
CROSS JOIN LATERAL unnest(claim.ids, claim.positions, claim.attempts) AS one (id, position, attempt)
JOIN mq_msgs AS job ON job.id = one.id AND job.position = one.position AND job.attempts_ended + 1 = one.attempt
WHERE greatest(claim.leased_until, job.leased_until) > clock_timestamp();
COMMENT ON VIEW mq_running_jobs IS 'What is running, where, and until when it is leased.';

-- sql/views/mq_workers.sql
-- A runner names itself twice: as the worker of its polls, and, so that it is seen while it is idle, in
-- the application_name of the connection on which it polls: 'sqlxmq ' and the worker's name. The server
-- cuts that to 63 bytes, as a cast to name does.
CREATE VIEW mq_workers AS
SELECT
    coalesce(holder.worker, substr(session.application_name, 8)) AS worker,
    coalesce(holder.running, 0) AS running,
    holder.earliest_lease_end,
    coalesce(session.connections, 0) AS connections
FROM (
    SELECT worker, count(*) AS running, min(leased_until) AS earliest_lease_end
    FROM mq_running_jobs GROUP BY worker
) AS holder
FULL JOIN (
    SELECT application_name, count(*) AS connections
    FROM pg_stat_activity
    WHERE datname = current_database() AND application_name LIKE 'sqlxmq %'
    GROUP BY application_name
) AS session
    ON session.application_name = ('sqlxmq ' || holder.worker)::name::text;
COMMENT ON VIEW mq_workers IS 'Who works: the workers that hold jobs, and the runners that are connected, idle ones included.';

-- sql/views/mq_dead_jobs.sql
CREATE VIEW mq_dead_jobs AS
SELECT
    job.id,
    job.name,
    job.channel_name,
    job.channel_args,
    job.died_at,
    job.attempts_ended AS attempts_made,
    job.last_error,
    job.ordered AND NOT job.passes_when_dead AS holds_channel,
    job.payload_json,
    job.payload_bytes
FROM mq_dead AS ticket
JOIN mq_msgs AS job ON job.id = ticket.id AND job.died_at = ticket.died_at;
COMMENT ON VIEW mq_dead_jobs IS 'The jobs whose attempts are used up, or that failed for good, and why.';

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
CREATE FUNCTION mq_status(
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
CREATE FUNCTION mq_explain(msg_id uuid)
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
CREATE FUNCTION mq_version() RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN '0.4.0'::text;
COMMENT ON FUNCTION mq_version IS 'The version of this queue''s SQL.';

-- Privileges and backup

-- sql/functions/mq_grant.sql
-- Purpose: give a role what it needs, and no more:
--            producer  sends, and commits what it reserved;
--            worker    polls and reports;
--            observer  reads the views, mq_status and mq_explain, payloads included;
--            operator  everything.
--          An update of the extension gives roles what is new for them.
-- Returns: nothing.
-- Locks:   those of GRANT.
-- Errors:  22004 an argument is NULL; 22023 what is none of the four; 42704 no such role; 42501 the
--          caller does not own the extension.
-- Callers: the owner of the extension (it runs with the caller's own rights).
CREATE FUNCTION mq_grant(role name, what text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, @extschema@, pg_temp
AS $$
DECLARE
    -- Functions by name, all signatures of each.
    sends   CONSTANT text[] := ARRAY['mq_insert', 'mq_enqueue', 'mq_enqueue_many', 'mq_enqueue_trigger', 'mq_commit'];
    works   CONSTANT text[] := ARRAY['mq_poll', 'mq_keep_alive', 'mq_checkpoint', 'mq_complete', 'mq_fail',
                                     'mq_release', 'mq_delete'];
    watches CONSTANT text[] := ARRAY['mq_status', 'mq_explain'];
    manages CONSTANT text[] := ARRAY['mq_cancel', 'mq_retry', 'mq_clear', 'mq_clear_all', 'mq_configure'];
    anyone  CONSTANT text[] := ARRAY['mq_version', 'mq_notify_channel'];
    views   CONSTANT text[] := ARRAY['mq_jobs', 'mq_running_jobs', 'mq_dead_jobs', 'mq_workers'];
    home    CONSTANT regnamespace := (SELECT pronamespace::regnamespace FROM pg_proc WHERE oid = 'mq_version()'::regprocedure);
    granted text[];
    callee  regprocedure;
    one     text;
BEGIN
    IF role IS NULL THEN
        PERFORM mq_refuse('22004', 'role', NULL, 'it must name a role');
    END IF;
    granted := anyone || CASE what
        WHEN 'producer' THEN sends
        WHEN 'worker' THEN works
        WHEN 'observer' THEN watches
        WHEN 'operator' THEN sends || works || watches || manages
    END;
    IF granted IS NULL OR what IS NULL OR what NOT IN ('producer', 'worker', 'observer', 'operator') THEN
        PERFORM mq_refuse(CASE WHEN what IS NULL THEN '22004' ELSE '22023' END, 'what', quote_literal(what),
            'it must be ''producer'', ''worker'', ''observer'' or ''operator''');
    END IF;
    IF NOT has_schema_privilege(role, home, 'USAGE') THEN
        EXECUTE format('GRANT USAGE ON SCHEMA %s TO %I', home, role);
    END IF;
    FOR callee IN
        SELECT function.oid::regprocedure FROM pg_proc AS function
        WHERE function.pronamespace = home AND function.proname = ANY (granted)
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', callee, role);
    END LOOP;
    IF what IN ('producer', 'operator') THEN
        EXECUTE format('GRANT USAGE ON TYPE mq_new_t TO %I', role);
    END IF;
    IF what IN ('observer', 'operator') THEN
        FOREACH one IN ARRAY views LOOP
            EXECUTE format('GRANT SELECT ON %I TO %I', one, role);
        END LOOP;
    END IF;
    IF what = 'operator' THEN
        EXECUTE format('GRANT SELECT, DELETE ON mq_msgs TO %I', role);
    ELSE
        -- Whether a job exists: the crate's clients ask the table.
        EXECUTE format('GRANT SELECT (id) ON mq_msgs TO %I', role);
    END IF;
END
$$;
COMMENT ON FUNCTION mq_grant IS 'Gives a role what a producer, worker, observer or operator needs.';

-- sql/privileges.sql
-- PUBLIC can call nothing and read nothing; mq_grant opens what a role needs.
REVOKE ALL ON FUNCTION
    mq_channel_key(text, text), mq_new_id(), mq_notify_channel(text), mq_notify(text[]), mq_notify_until(timestamptz, pg_snapshot),
    mq_somebody_holds(integer, integer), mq_somebody_may_sleep(text), mq_fall_asleep(text[], pg_snapshot), mq_wake_up(), mq_join_epoch(), mq_begin_epoch(bigint), mq_tend_epochs(),
    mq_carry_over(integer, integer),
    mq_set_marks(timestamptz, timestamptz, timestamptz, boolean, boolean),
    mq_refuse(text, text, text, text),
    mq_is_acceptable(uuid, interval, integer, interval, text, text, interval, boolean, text, integer, text),
    mq_refuse_messages(mq_new_t[], integer[], text[]), mq_place_ordered(uuid[], uuid[], integer),
    mq_insert_one(uuid, interval, integer, interval, text, text, interval, text, json, bytea, integer, text),
    mq_parse_json(text, text[]), mq_check_ids(uuid[], integer[], boolean), mq_check_channel_names(text[]),
    mq_raise_lost_lease(uuid, integer), mq_join_channels(uuid[]), mq_issue_ticket(mq_msgs),
    mq_advance_channel(mq_msgs), mq_leave_channel(), mq_settle_idle_channels(),
    mq_insert(mq_new_t[], integer[], text[], text[]),
    mq_enqueue(text, jsonb, text, text, interval, integer, interval, boolean, integer, interval, bytea, text, uuid, jsonb),
    mq_enqueue_many(text[], text[], text[], text[], interval[], integer[], interval[], boolean[], integer[], interval[], bytea[], text[], uuid[], text[]),
    mq_enqueue_trigger(), mq_commit(uuid[]), mq_end_attempt(mq_msgs, text, interval, boolean, boolean),
    mq_take_back_expired(timestamptz, timestamptz), mq_release_due(timestamptz, timestamptz, integer), mq_forget_dead(integer), mq_remove_tickets(uuid[]), mq_clear_jobs(text[]),
    mq_poll(text[], integer, interval, text, text), mq_keep_alive(uuid[], interval, integer[]),
    mq_checkpoint(uuid, interval, text, bytea, integer, integer),
    mq_complete(uuid, integer), mq_complete(uuid[], integer[]),
    mq_fail(uuid, integer, text, interval, boolean), mq_fail(uuid[], integer[], text[], interval[], boolean[]),
    mq_release(uuid[], integer[], interval), mq_delete(uuid[]), mq_cancel(uuid[]),
    mq_retry(uuid[], integer, interval), mq_clear(text[]), mq_clear_all(), mq_configure(interval),
    mq_status(text[], integer), mq_explain(uuid), mq_version(), mq_grant(name, text)
FROM PUBLIC;
REVOKE ALL ON TYPE mq_new_t FROM PUBLIC;
REVOKE ALL ON
    mq_msgs, mq_ready, mq_scheduled, mq_blocked, mq_dead, mq_claims, mq_chains, mq_heads,
    mq_idle_channels, mq_settings, mq_late_epochs, mq_open_epochs, mq_sleeps_for, mq_held, mq_jobs, mq_running_jobs, mq_dead_jobs, mq_workers
FROM PUBLIC;
REVOKE ALL ON SEQUENCE
    mq_position, mq_claim_number, mq_epoch, mq_epoch_began_at, mq_first_epoch, mq_scheduled_mark, mq_claims_mark, mq_look_again_at,
    mq_tend_again_at, mq_notified_until, mq_notified_since
FROM PUBLIC;

-- Functions run with their owner's rights, and find operators and functions along their search_path, which
-- includes this schema: nobody else may create any here.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_namespace CROSS JOIN LATERAL aclexplode(nspacl) AS granted
               WHERE pg_namespace.oid = '@extschema@'::regnamespace
                 AND granted.grantee = 0 AND granted.privilege_type = 'CREATE') THEN
        RAISE WARNING 'everybody can create objects in schema %', '@extschema@'
            USING HINT = 'REVOKE CREATE ON SCHEMA … FROM PUBLIC, or create the extension in a schema of its own.';
    END IF;
END
$$;

-- sql/backup.sql
-- All of the queue is the user's data: pg_dump takes it along, sequences included. Not so what polls keep to
-- find their way sooner: pg_dump reads sequences later than tables, and what is gone by then would be
-- missed in what it has read.
SELECT pg_catalog.pg_extension_config_dump('mq_msgs', '');
SELECT pg_catalog.pg_extension_config_dump('mq_ready', '');
SELECT pg_catalog.pg_extension_config_dump('mq_scheduled', '');
SELECT pg_catalog.pg_extension_config_dump('mq_blocked', '');
SELECT pg_catalog.pg_extension_config_dump('mq_dead', '');
SELECT pg_catalog.pg_extension_config_dump('mq_claims', '');
SELECT pg_catalog.pg_extension_config_dump('mq_chains', '');
SELECT pg_catalog.pg_extension_config_dump('mq_heads', '');
SELECT pg_catalog.pg_extension_config_dump('mq_idle_channels', '');
SELECT pg_catalog.pg_extension_config_dump('mq_settings', '');
SELECT pg_catalog.pg_extension_config_dump('mq_position', '');
SELECT pg_catalog.pg_extension_config_dump('mq_claim_number', '');
-- At the end, since an update can only append.
SELECT pg_catalog.pg_extension_config_dump('mq_late_epochs', '');
SELECT pg_catalog.pg_extension_config_dump('mq_epoch', '');
