-- NOTIFY makes senders commit one after the other, so it is sent only to who may be asleep. A session that
-- polls with notify_me => 'asleep' holds an advisory lock for each of its channel names from a poll that
-- found nothing until one that found something. Of the others, clients of the sqlxmq crate among them, it
-- is known only until when the last of them may sleep.
CREATE SEQUENCE mq_notified_until MINVALUE 0 START 0;
COMMENT ON SEQUENCE mq_notified_until IS 'Until then somebody may sleep who does not say when he wakes up, and every send notifies, in seconds since 1970. Not dumped.';

CREATE SEQUENCE mq_notified_since MINVALUE 0 START 0;
COMMENT ON SEQUENCE mq_notified_since IS 'Number of the transaction before which a sender may have seen nobody whom that time is for. Not dumped.';
