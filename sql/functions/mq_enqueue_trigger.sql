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
