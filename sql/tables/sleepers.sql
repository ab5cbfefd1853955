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
