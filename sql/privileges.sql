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
