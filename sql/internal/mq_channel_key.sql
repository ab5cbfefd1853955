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
