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
