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
