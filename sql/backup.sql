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
