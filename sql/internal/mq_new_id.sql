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
