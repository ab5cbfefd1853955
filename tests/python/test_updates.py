"""Every released version can be updated: to the catalog of a fresh install, with the same jobs and rights."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.python.conftest import ROOT, Database, create_database, until
from tests.python.test_backup import FILL, TABLES, run
from tools.build_extension import version
from tools.cluster import Cluster

EXTENSION = ROOT / "extension"
OLDER = sorted(
    match[1]
    for path in EXTENSION.glob("sqlxmq--*.sql")
    if (match := re.fullmatch(r"sqlxmq--([0-9.]+)\.sql", path.name)) and match[1] != version()
)
ROLES = {f"update_{what}": what for what in ("producer", "worker", "observer", "operator")}

# What a version consists of, without anything that differs from one installation to the next.
CATALOG = {
    "functions": r"""
        SELECT pg_get_functiondef(oid), obj_description(oid, 'pg_proc'), proowner::regrole::text
        FROM pg_proc WHERE pronamespace = current_schema()::regnamespace AND proname LIKE 'mq\_%'""",
    "function rights": r"""
        SELECT pg_proc.oid::regprocedure::text, grantor::regrole::text, grantee::regrole::text, privilege_type,
               is_grantable
        FROM pg_proc, aclexplode(coalesce(proacl, acldefault('f', proowner)))
        WHERE pronamespace = current_schema()::regnamespace AND proname LIKE 'mq\_%'""",
    "relations": r"""
        SELECT relname, relkind, reloptions, relpersistence, relreplident, obj_description(oid, 'pg_class'),
               relowner::regrole::text, CASE relkind WHEN 'v' THEN pg_get_viewdef(oid) END
        FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relname LIKE 'mq\_%'""",
    "relation rights": r"""
        SELECT relname, grantor::regrole::text, grantee::regrole::text, privilege_type, is_grantable
        FROM pg_class, acldefault(CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", relowner) AS usual,
             aclexplode(coalesce(relacl, usual))
        WHERE relnamespace = current_schema()::regnamespace AND relname LIKE 'mq\_%' AND relkind IN ('r', 'v', 'S')""",
    "columns": r"""
        SELECT relname, attnum, attname, format_type(atttypid, atttypmod), attnotnull, attstorage, attstattarget,
               pg_get_expr(adbin, adrelid), col_description(pg_class.oid, attnum)
        FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid
        LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
        WHERE relnamespace = current_schema()::regnamespace AND relname LIKE 'mq\_%' AND attnum > 0""",
    "column rights": r"""
        SELECT relname, attname, grantor::regrole::text, grantee::regrole::text, privilege_type, is_grantable
        FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid, aclexplode(attacl)
        WHERE relnamespace = current_schema()::regnamespace AND relname LIKE 'mq\_%'""",
    "indexes": r"""
        SELECT pg_get_indexdef(indexrelid) FROM pg_index JOIN pg_class ON pg_class.oid = indrelid
        WHERE relnamespace = current_schema()::regnamespace AND relname LIKE 'mq\_%'""",
    "constraints": r"""
        SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid)
        FROM pg_constraint WHERE connamespace = current_schema()::regnamespace AND conname LIKE 'mq\_%'""",
    "triggers": r"""
        SELECT pg_get_triggerdef(pg_trigger.oid), obj_description(pg_trigger.oid, 'pg_trigger')
        FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid
        WHERE relnamespace = current_schema()::regnamespace AND relname LIKE 'mq\_%'""",
    "sequences": r"""
        SELECT seqrelid::regclass::text, seqtypid::regtype::text, seqstart, seqincrement, seqmax, seqmin, seqcache,
               seqcycle
        FROM pg_sequence JOIN pg_class ON pg_class.oid = seqrelid
        WHERE relnamespace = current_schema()::regnamespace""",
    "types": r"""
        SELECT typname, typtype, obj_description(pg_type.oid, 'pg_type'), typowner::regrole::text,
               ARRAY(SELECT grantee::regrole::text || ' ' || privilege_type
                     FROM aclexplode(coalesce(typacl, acldefault('T', typowner))) ORDER BY 1)
        FROM pg_type WHERE typnamespace = current_schema()::regnamespace AND typname LIKE 'mq\_%'""",
    "members": """
        SELECT pg_describe_object(classid, objid, objsubid) FROM pg_depend
        WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
          AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'sqlxmq')""",
    "extension": """
        SELECT extname, extversion, extrelocatable, extowner::regrole::text, extcondition,
               ARRAY(SELECT oid::regclass::text FROM unnest(extconfig) WITH ORDINALITY AS config (oid, n) ORDER BY n)
        FROM pg_extension WHERE extname = 'sqlxmq'""",
    "default privileges": "SELECT defaclrole, defaclnamespace, defaclobjtype, defaclacl FROM pg_default_acl",
}


def catalog(session: psycopg.Connection[Any]) -> dict[str, list[str]]:
    """All that the catalogs say about the queue in the current schema."""
    return {part: sorted(map(repr, session.execute(query.encode()))) for part, query in CATALOG.items()}


def jobs(session: psycopg.Connection[Any]) -> dict[str, list[dict[str, Any]]]:
    """All rows of all tables, each by its columns' names."""
    return {
        table: [row[0] for row in session.execute(f"SELECT to_jsonb(t) FROM mq_{table} AS t".encode())]
        for table in TABLES
    }


def in_order(rows: list[dict[str, Any]], columns: list[str]) -> list[str]:
    return sorted(json.dumps({column: row[column] for column in columns}, sort_keys=True) for row in rows)


def path_of_updates(older: str) -> list[str]:
    """The update scripts from a version to the newest, in their order."""
    steps = {}
    for path in EXTENSION.glob("sqlxmq--*--*.sql"):
        _, start, end = path.stem.split("--")
        steps[start] = (end, path.name)
    found = []
    while older != version():
        older, name = steps[older]
        found.append(name)
    return found


def script(name: str) -> str:
    """A script of the extension as psql can run it, without the extension."""
    lines = (EXTENSION / name).read_text().splitlines()
    kept = (line for line in lines if not line.startswith("\\echo") and "pg_extension_config_dump" not in line)
    return "\n".join(kept).replace("@extschema@", "public")


def install(session: psycopg.Connection[Any], wanted: str, way: str) -> None:
    if way == "extension":
        session.execute(f"CREATE EXTENSION sqlxmq VERSION '{wanted}'".encode())
    else:
        session.execute(script(f"sqlxmq--{wanted}.sql").encode())


def update_from(session: psycopg.Connection[Any], older: str, way: str) -> None:
    if way == "extension":
        session.execute("ALTER EXTENSION sqlxmq UPDATE")
    else:
        for name in path_of_updates(older):
            with session.transaction():
                session.execute(script(name).encode())


@pytest.fixture
def roles(server: Cluster) -> Iterator[None]:
    """A role of each kind, for all databases of the test."""
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        for role in ROLES:
            admin.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))
        yield
        names = [row[0] for row in admin.execute("SELECT datname FROM pg_database WHERE datname LIKE 'test\\_%'")]
        for name in names:
            with psycopg.connect(server.dsn(name), autocommit=True) as session:
                session.execute("DROP OWNED BY update_producer, update_worker, update_observer, update_operator")
        for role in ROLES:
            admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


def grant(session: psycopg.Connection[Any]) -> None:
    for role, what in ROLES.items():
        session.execute("SELECT mq_grant(%s, %s)", (role, what))


def go_on(session: psycopg.Connection[Any]) -> None:
    """What FILL has sent is worked off, in its order; what was running, when its lease is over."""
    session.execute("UPDATE mq_claims SET deadline = now(), leased_until = now()")
    plain = 0
    while (rows := session.execute("SELECT * FROM mq_poll('{\"\"}', 50)").fetchall()) and rows[0][0] is not None:
        plain += len(session.execute("SELECT mq_complete(%s::uuid[], %s::int[])",
                                     ([r[0] for r in rows], [r[7] for r in rows])).fetchall())  # fmt: skip
    assert plain == 200
    for n in range(1, 21):
        row = session.execute("SELECT id, attempt, payload_json FROM mq_poll('{chain}', 5)").fetchone()
        assert row is not None
        assert row[2] == f'{{"n": {n}}}'
        session.execute("SELECT mq_complete(%s, %s)", row[:2])
    states = session.execute("SELECT state, count(*) FROM mq_jobs GROUP BY state ORDER BY state").fetchall()
    assert states == [("dead", 1), ("scheduled", 11)]
    row = session.execute("SELECT mq_retry(array_agg(id)) FROM mq_dead_jobs").fetchone()
    assert session.execute("SELECT id FROM mq_poll('{dying}')").fetchone() == row
    session.execute("SELECT mq_enqueue('new', ordered => true, channel_name => 'new')")
    assert session.execute("SELECT name FROM mq_poll('{new}')").fetchone() == ("new",)


def test_there_is_something_to_update() -> None:
    assert OLDER


@pytest.mark.parametrize("older", OLDER)
def test_the_pgtap_suite_passes_on_an_updated_database(server: Cluster, empty_database: Database, older: str) -> None:
    with empty_database.connect() as session:
        session.execute(f"CREATE EXTENSION sqlxmq VERSION '{older}'".encode())
        session.execute("ALTER EXTENSION sqlxmq UPDATE")
    done = subprocess.run(
        ["pg_prove", "-d", empty_database.name, *sorted((ROOT / "tests" / "pgtap").glob("*.sql"))],
        env=server.environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("older", OLDER)
@pytest.mark.parametrize("way", ["extension", "plain SQL"])
def test_an_updated_queue_is_a_fresh_one_with_its_jobs(
    server: Cluster, empty_database: Database, roles: None, older: str, way: str
) -> None:
    fresh = create_database(server, "template1")
    with empty_database.connect() as session, fresh.connect() as other:
        # Somebody's own default privileges stay as they are, and change nothing.
        for each in (session, other):
            each.execute("ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC")
            each.execute("ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO update_observer WITH GRANT OPTION")
            install(each, older if each is session else version(), way)
            grant(each)
            # What was granted by hand counts, too.
            each.execute("GRANT EXECUTE ON FUNCTION mq_poll TO update_observer WITH GRANT OPTION")
        session.execute(FILL)
        session.execute("SELECT mq_enqueue('last', ordered => true, channel_name => 'last')")
        session.execute("SELECT mq_complete(id, attempt) FROM mq_poll('{last}')")
        before = jobs(session)
        update_from(session, older, way)
        assert catalog(session) == catalog(other)
        after = jobs(session)
        for table, rows in before.items():
            assert rows, f"mq_{table} is empty: the update of its rows is not tested"
            assert in_order(after[table], list(rows[0])) == in_order(rows, list(rows[0])), table
        go_on(session)


@pytest.mark.parametrize("older", OLDER)
@pytest.mark.parametrize("way", ["extension", "plain SQL"])
def test_who_sleeps_at_an_update_is_notified_after_it(empty_database: Database, older: str, way: str) -> None:
    with empty_database.connect() as session, empty_database.connect() as sleeper:
        install(session, older, way)
        sleeper.execute("LISTEN mq")
        assert sleeper.execute("SELECT id FROM mq_poll(NULL)").fetchone() == (None,)
        session.execute("SELECT mq_enqueue('before')")
        assert [found.channel for found in sleeper.notifies(timeout=60, stop_after=1)] == ["mq"]
        update_from(session, older, way)
        row = session.execute("SELECT to_timestamp(last_value) - now() FROM mq_notified_until").fetchone()
        assert row is not None
        # Before 0.3.0 nobody said until when he sleeps.
        least = timedelta(hours=23) if older in ("0.1.0", "0.2.0") else timedelta(minutes=10)
        assert least < row[0] < timedelta(hours=25)
        # Before anybody polls, which would have it notified by itself.
        session.execute("SELECT mq_enqueue('after')")
        assert [found.channel for found in sleeper.notifies(timeout=60, stop_after=1)] == ["mq"]
        assert sleeper.execute("SELECT name FROM mq_poll(NULL, 10)").fetchall() == [("before",), ("after",)]


@pytest.mark.parametrize("older", OLDER)
async def test_an_update_and_a_worker_do_not_wait_for_each_other(empty_database: Database, older: str) -> None:
    async def connect() -> psycopg.AsyncConnection[Any]:
        return await psycopg.AsyncConnection.connect(empty_database.dsn, autocommit=True)

    async with await connect() as session, await connect() as worker, await connect() as updater:
        await session.execute(f"CREATE EXTENSION sqlxmq VERSION '{older}'".encode())
        await session.execute("SELECT mq_enqueue('one')")
        await worker.execute("CREATE TEMPORARY TABLE claimed AS SELECT id, attempt FROM mq_poll(NULL, 1, '1 hour')")

        def waits(connection: psycopg.AsyncConnection[Any]) -> Callable[[], Awaitable[bool]]:
            async def is_waiting() -> bool:
                found = await session.execute(
                    "SELECT FROM pg_locks WHERE pid = %s AND NOT granted", (connection.info.backend_pid,)
                )
                return found.rowcount > 0

            return is_waiting

        # The worker gets half of the locks it needs, the update comes, and the worker goes on.
        async with session.transaction():
            await session.execute("LOCK TABLE mq_msgs IN ACCESS EXCLUSIVE MODE")
            completion = asyncio.create_task(worker.execute("SELECT mq_complete(id, attempt) FROM claimed"))
            await until(waits(worker), "the worker waits")
            update = asyncio.create_task(updater.execute("ALTER EXTENSION sqlxmq UPDATE"))
            await until(waits(updater), "the update waits")
        await asyncio.gather(completion, update)
        row = await (await session.execute("SELECT mq_version(), count(*) FROM mq_msgs")).fetchone()
        assert row == (version(), 0)


@pytest.mark.parametrize("older", OLDER)
def test_rights_survive_the_dump_of_an_updated_database(
    server: Cluster, empty_database: Database, roles: None, older: str, tmp_path: Any
) -> None:
    with empty_database.connect() as session:
        session.execute(f"CREATE EXTENSION sqlxmq VERSION '{older}'".encode())
        grant(session)
        session.execute("ALTER EXTENSION sqlxmq UPDATE")
        before = catalog(session)
    copy = create_database(server, "template0")
    run(server, "pg_dump", "-d", empty_database.name, "-f", tmp_path / "dump")
    run(
        server, "psql", "-X", "-q", "-o", "/dev/null", "-v", "ON_ERROR_STOP=1", "-d", copy.name, "-f", tmp_path / "dump"
    )
    with copy.connect() as session:
        assert catalog(session) == before


@pytest.mark.parametrize("older", OLDER)
def test_an_update_by_a_superuser_leaves_all_to_the_owner(server: Cluster, roles: None, older: str) -> None:
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute('CREATE ROLE "Update Owner" LOGIN')
        try:
            admin.execute('CREATE DATABASE updated OWNER "Update Owner"')
            admin.execute('CREATE DATABASE updated_fresh OWNER "Update Owner"')
            found = {}
            for name, installed in (("updated", older), ("updated_fresh", version())):
                with psycopg.connect(server.dsn(name, "'Update Owner'"), autocommit=True) as session:
                    session.execute("CREATE SCHEMA mine")
                    session.execute("SET search_path = mine")
                    session.execute(f"CREATE EXTENSION sqlxmq VERSION '{installed}' SCHEMA mine".encode())
                    grant(session)
                with psycopg.connect(server.dsn(name), autocommit=True) as session:
                    session.execute("ALTER EXTENSION sqlxmq UPDATE")
                    session.execute("SET search_path = mine")
                    found[name] = catalog(session)
            assert found["updated"] == found["updated_fresh"]
        finally:
            admin.execute("DROP DATABASE IF EXISTS updated")
            admin.execute("DROP DATABASE IF EXISTS updated_fresh")
            admin.execute('DROP ROLE "Update Owner"')
