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
