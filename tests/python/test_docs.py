"""The documentation's examples run, everything public is described, and links lead somewhere."""

from __future__ import annotations

import configparser
import inspect
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
import typer
import yaml

import sqlxmq
import sqlxmq.logs
import sqlxmq.opentelemetry
import sqlxmq.prometheus
import sqlxmq.testing
from sqlxmq.cli.app import app
from sqlxmq.cli.durations import duration
from tests.python.cli import call
from tests.python.conftest import ROOT, Database
from tests.python.document import blocks_of

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
# docs/reference/cli.md is run by test_cli_docs.py.
WITH_EXAMPLES = [
    page.relative_to(DOCS).as_posix()
    for page in PAGES
    if any(block.file is None for block in blocks_of(page.read_text())) and page.name != "cli.md"
]

# The languages of blocks, and what is done with them: these are run (document.py), …
RUN = {"python", "sql", "bash"}
# … these are read by tests, …
READ = {"yaml", "ini", "postgresql"}
# … and these are for people. The benchmarks that sh stands for are run by `make bench`.
SHOWN = {"text", "sh", "{toctree}", "{eval-rst}"}


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / document).read_text(), re.MULTILINE | re.DOTALL)


def psql(database: Database, script: str) -> str:
    done = subprocess.run(
        [database.server.bindir / "psql", "-X", "-v", "ON_ERROR_STOP=1", "-d", database.name],
        env=database.server.environment(), input=script, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def drop_roles(database: Database, text: str) -> None:
    """Roles are the cluster's, not the database's."""
    with database.connect() as session:
        for role in re.findall(r"CREATE ROLE (\w+)", text):
            session.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.mark.parametrize("page", WITH_EXAMPLES)
def test_examples_run(database: Database, empty_database: Database, tmp_path: Path, page: str) -> None:
    """In a process of their own, as a reader would run them: see document.py."""
    text = (DOCS / page).read_text()
    installs = re.search(r"^CREATE EXTENSION|^sqlxmq install", text, re.MULTILINE) is not None
    where = empty_database if installs else database
    environment = {**where.server.environment(where.name), "PSQL": str(where.server.bindir / "psql")}
    try:
        done = subprocess.run(
            [sys.executable, "-W", "error", ROOT / "tests" / "python" / "document.py", DOCS / page],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=150,
        )  # fmt: skip
    finally:
        drop_roles(where, text)
    assert done.returncode == 0, done.stderr
    assert "ResourceWarning" not in done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_no_example_goes_unchecked(page: Path) -> None:
    languages = re.findall(r"^`{3,}([^`\n]*)\n.*?^`{3,}$", page.read_text(), re.MULTILINE | re.DOTALL)
    assert {language.strip() for language in languages} <= RUN | READ | SHOWN
    if page.name != "performance.md":
        assert "sh" not in languages


def test_the_readme_runs(empty_database: Database, tmp_path: Path) -> None:
    psql(empty_database, "\n".join(blocks("README.md", "sql")))
    files = re.findall(
        r"<!-- file: (\S+) -->\n```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    assert [name for name, _ in files] == ["jobs.py", "send.py", "worker.py"]
    for name, text in files:
        (tmp_path / name).write_text(text)
    environment = empty_database.server.environment(empty_database.name)
    subprocess.run([sys.executable, "send.py"], cwd=tmp_path, env=environment, check=True)
    worker = subprocess.Popen(
        [sys.executable, "worker.py"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        with empty_database.connect() as session:
            deadline = time.monotonic() + 60
            while session.execute("SELECT count(*) FROM mq_msgs").fetchone() != (0,):
                assert worker.poll() is None
                assert time.monotonic() < deadline, session.execute(
                    "SELECT name, state, last_error FROM mq_jobs"
                ).fetchall()
                time.sleep(0.02)
            sent = session.execute("SELECT recipient FROM mail_sent ORDER BY recipient").fetchall()
        assert sent == [("ann@example.org",), ("bob@example.org",)]
        worker.send_signal(signal.SIGTERM)
        worker.communicate(timeout=30)
        assert worker.returncode == 0
    finally:
        worker.kill()
        worker.communicate()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_files_that_others_read_are_well_formed(page: Path) -> None:
    text = page.read_text()
    for block in re.findall(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        assert list(yaml.safe_load_all(block))
    for block in re.findall(r"^```ini\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        parser = configparser.ConfigParser()
        parser.read_string(block)
        assert parser.sections()


def test_the_kubernetes_page_says_what_its_manifests_do() -> None:
    text = (DOCS / "howto" / "kubernetes.md").read_text()
    worker, exporter, upgrade = (
        yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    )
    for manifest in (worker, exporter):
        assert (manifest["kind"], manifest["apiVersion"]) == ("Deployment", "apps/v1")
        assert manifest["spec"]["selector"]["matchLabels"] == manifest["spec"]["template"]["metadata"]["labels"]
    pod = worker["spec"]["template"]["spec"]
    (container,) = pod["containers"]

    # The command is understood, and is no shell.
    assert container["command"][:2] == ["sqlxmq", "run"]
    run = typer.main.get_command(app).commands["run"]  # type: ignore[attr-defined]
    arguments = [*container["command"][2:], *container["args"]]
    given = run.make_context("run", arguments).params
    assert (given["target"], given["worker"]) == ("shop.jobs:registry", "$(POD_NAME)")
    assert "POD_NAME" in [variable["name"] for variable in container["env"]]

    # The pod gets as long as the worker takes: see JobRunner.
    options = dict(re.findall(r"--([\w-]+)=(\S+)", " ".join(container["args"])))
    assert pod["terminationGracePeriodSeconds"] == duration(options["grace"]).total_seconds() + 15
    assert inspect.signature(sqlxmq.JobRunner).parameters["grace"].default.total_seconds() + 15 == 30

    # Metrics are where they are looked for, and can be reached there.
    (port,) = container["ports"]
    annotations = worker["spec"]["template"]["metadata"]["annotations"]
    assert str(port["containerPort"]) == options["metrics-port"] == annotations["prometheus.io/port"]
    assert options["metrics-address"] == "0.0.0.0"
    assert container["livenessProbe"]["httpGet"] == {"path": "/metrics", "port": port["name"]}
    assert "SQLXMQ_DATABASE" in [variable["name"] for variable in container["env"]]

    (container,) = exporter["spec"]["template"]["spec"]["containers"]
    program = container["command"][2]
    compile(program, "exporter", "exec")
    assert f"serve({container['ports'][0]['containerPort']}, " in program

    assert (upgrade["kind"], upgrade["spec"]["template"]["spec"]["restartPolicy"]) == ("Job", "OnFailure")
    (container,) = upgrade["spec"]["template"]["spec"]["containers"]
    assert container["args"][0].splitlines() == ["sqlxmq install", "sqlxmq upgrade"]


def test_install_and_upgrade_can_be_run_again(empty_database: Database) -> None:
    """As the Kubernetes page says, at each deployment."""
    for _ in range(2):
        for command in ("install", "upgrade"):
            call(empty_database, command)


def sql_sections() -> dict[str, str]:
    """What the SQL reference says of each function and view."""
    text = (DOCS / "reference" / "sql.md").read_text()
    return dict(re.findall(r"^### (mq_\w+)\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL))


def in_one_line(text: str) -> str:
    text = re.sub(r"\s+", " ", text).strip()
    return re.sub(r" ?([()]) ?", r"\1", text)


@pytest.fixture
def public(session: psycopg.Connection[Any]) -> Any:
    """The functions that mq_grant opens to somebody, and mq_grant itself: signatures and callers, by name."""
    roles = ("producer", "worker", "observer", "operator")
    found: dict[str, list[tuple[str, list[str]]]] = {}
    with session.transaction(force_rollback=True):
        for role in roles:
            session.execute(f"CREATE ROLE test_docs_{role}")
            session.execute("SELECT mq_grant(%s, %s)", (f"test_docs_{role}", role))
        functions = session.execute(
            """
            SELECT proname, pg_get_function_arguments(oid), pg_get_function_result(oid), ARRAY(
                SELECT role FROM unnest(%s::text[]) AS role
                WHERE has_function_privilege('test_docs_' || role, oid, 'EXECUTE'))
            FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND proname LIKE 'mq%%' ORDER BY oid
            """,
            (list(roles),),
        )
        for name, arguments, result, callers in functions:
            if callers or name == "mq_grant":
                # The types of defaults are those of their arguments.
                arguments = re.sub(r"(DEFAULT (?:'[^']*'|[^:,]+))::[a-z ]+(\[\])?", r"\1", arguments)
                found.setdefault(name, []).append((f"{name}({arguments}) RETURNS {result}", callers))
        views = session.execute(
            """
            SELECT relation.relname, array_agg(ARRAY[attname, format_type(atttypid, atttypmod)] ORDER BY attnum)
            FROM pg_class AS relation JOIN pg_attribute ON attrelid = relation.oid AND attnum > 0
            WHERE relkind = 'v' AND has_table_privilege('test_docs_observer', relation.oid, 'SELECT')
              AND relnamespace = 'public'::regnamespace
            GROUP BY relation.relname
            """
        ).fetchall()
    return found, dict(views)


def test_the_sql_reference_is_the_catalog(public: Any) -> None:
    functions, views = public
    sections = sql_sections()
    assert set(sections) == set(functions) | set(views)
    for name, overloads in functions.items():
        signatures = "".join(re.findall(r"^```postgresql\n(.*?)^```$", sections[name], re.MULTILINE | re.DOTALL))
        assert in_one_line(signatures) == in_one_line(" ".join(signature for signature, _ in overloads))
    for name, columns in views.items():
        described = re.findall(r"^\| `(\w+)` \| ([^|]+) \|", sections[name], re.MULTILINE)
        assert [list(column) for column in described] == columns, name


def test_the_sql_reference_says_who_may_call(public: Any) -> None:
    functions, views = public
    for name, text in sql_sections().items():
        said = re.search(r"\*\*Callers:\*\* (.*?)(\.|:|\n)", text)
        assert said, name
        if name == "mq_grant":
            assert said[1] == "the owner of the extension"
        elif name in views:
            assert said[1] == "observer, operator"
        else:
            assert [said[1].split(", ")] * len(functions[name]) == [callers for _, callers in functions[name]], name


def test_the_sql_reference_names_the_errors_of_the_headers() -> None:
    for path in (ROOT / "sql" / "functions").glob("*.sql"):
        said = re.search(r"\*\*Errors:\*\*(.*?)\*\*Callers", sql_sections()[path.stem], re.DOTALL)
        assert said, path.stem
        header = re.findall(r"^-- Errors:(.*?)(?=^-- \w+:|^CREATE)", path.read_text(), re.MULTILINE | re.DOTALL)
        code = r"\b(?:[0-9]{2}[0-9P]\d{2}|MQ\d{3})\b"
        assert set(re.findall(code, " ".join(header))) <= set(re.findall(code, said[1])), path.stem


def test_the_sql_reference_has_an_example_of_each() -> None:
    for name, text in sql_sections().items():
        example = "".join(re.findall(r"^```sql\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
        assert re.search(rf"\b{name}\b", example), name


def test_every_public_function_has_a_header_and_a_file(public: Any) -> None:
    functions, _ = public
    assert {path.stem for path in (ROOT / "sql" / "functions").glob("*.sql")} == set(functions)
    for path in (ROOT / "sql" / "functions").glob("*.sql"):
        text = path.read_text()
        for part in ("-- Purpose:", "-- Returns:", "-- Locks:", "-- Errors:", "-- Callers:", "COMMENT ON FUNCTION"):
            assert part in text, f"{path.name} lacks {part}"
        assert set(re.findall(r"^CREATE FUNCTION (\w+)", text, re.MULTILINE)) == {path.stem}


PYTHON_REFERENCE = (DOCS / "reference" / "python.md").read_text()
MODULES = (sqlxmq.testing, sqlxmq.opentelemetry, sqlxmq.prometheus, sqlxmq.logs)


def own_names(module: Any) -> set[str]:
    """What a module offers itself: what its __all__ says, else its own functions and classes."""
    if hasattr(module, "__all__"):
        return set(module.__all__)
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__ and callable(value)
    }


def test_every_public_name_is_in_the_python_reference() -> None:
    shown = re.findall(r"^\.\. (?:auto\w+|py:data):: (sqlxmq[\w.]*)", PYTHON_REFERENCE, re.MULTILINE)
    assert len(shown) == len(set(shown))
    public = {f"sqlxmq.{name}" for name in sqlxmq.__all__}
    assert {name for name in shown if name.count(".") == 1} == public
    of_modules = {f"{module.__name__}.{name}" for module in MODULES for name in own_names(module)}
    # What log lines are made with is not for others.
    assert {name for name in shown if name.count(".") > 1} == of_modules - {
        "sqlxmq.logs.TextLines", "sqlxmq.logs.JSONLines",
    }  # fmt: skip


def members(kind: type[Any]) -> set[str]:
    """The public methods and attributes of a class, those included that its methods set."""
    names: set[str] = set()
    for base in kind.__mro__:
        if base.__module__.startswith("sqlxmq"):
            names |= {*vars(base), *vars(base).get("__annotations__", {})}
            names |= set(re.findall(r"self\.([a-z]\w*)(?:: [^=\n]+)? = ", inspect.getsource(base)))
    return {name for name in names if not name.startswith("_")}


CLASSES = [
    *(getattr(sqlxmq, name) for name in sqlxmq.__all__ if inspect.isclass(getattr(sqlxmq, name))),
    sqlxmq.testing.QueueInTest, sqlxmq.testing.AsyncQueueInTest, sqlxmq.testing.RanJob, sqlxmq.testing.SpawnedJob,
    sqlxmq.prometheus.MetricsServer, sqlxmq.prometheus.JobMetrics,
]  # fmt: skip


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_member_of_a_class_is_described(kind: type[Any]) -> None:
    """By a docstring of its own, or among the attributes in that of its class."""
    section = re.search(r"^    Attributes:\n((?:        .*\n)*)", kind.__doc__ or "", re.MULTILINE)
    attributes = re.findall(r"^        (\w+)(?: \([^)]*\))?: ", section[1] if section else "", re.MULTILINE)
    with_text = {
        name
        for name in members(kind)
        if (member := inspect.getattr_static(kind, name, None)) is not None
        and (inspect.isroutine(member) or isinstance(member, property))
        and inspect.getdoc(getattr(kind, name) if inspect.isroutine(member) else member)
    }
    assert with_text | set(attributes) == members(kind)


def test_every_argument_is_described() -> None:
    """By its name, in the docstring of the function; of what a class is made of, in that of the class."""
    missing = []

    def look(what: str, text: str, function: Callable[..., Any]) -> None:
        for parameter in inspect.signature(function).parameters:
            if parameter != "self" and not re.search(rf"\b{parameter}\b", text):
                missing.append(f"{what}: {parameter}")

    # Nobody else calls their classes.
    made_by_the_package = (
        sqlxmq.Job, sqlxmq.BatchJob, sqlxmq.SqlxmqError, sqlxmq.Delivery, sqlxmq.prometheus.MetricsServer,
    )  # fmt: skip
    functions = {name: value for name in sqlxmq.__all__ if inspect.isfunction(value := getattr(sqlxmq, name))}
    for module in MODULES:
        functions |= {name: value for name in own_names(module) if inspect.isfunction(value := getattr(module, name))}
    for name, function in functions.items():
        look(name, function.__doc__ or "", function)
    for kind in CLASSES:
        if "__init__" in vars(kind) and not issubclass(kind, made_by_the_package) and "testing" not in kind.__module__:
            look(kind.__name__, f"{kind.__doc__} {kind.__init__.__doc__}", kind)
        for member in members(kind):
            function = inspect.getattr_static(kind, member, None)
            # Those of runner() are JobRunner's, those of a test's queue the functions'.
            is_described_there = member in ("runner", "sync_runner") or "Queue" in kind.__name__
            if inspect.isfunction(function) and not is_described_there:
                # Where a method is another's in a derived class, that one describes the arguments.
                texts = [vars(base)[member].__doc__ or "" for base in kind.__mro__ if member in vars(base)]
                look(f"{kind.__name__}.{member}", "\n".join(texts), function)
    assert not missing


def headings(page: Path) -> list[str]:
    """The anchors of a page's headings, as they are made on a site and by forges."""
    found: list[str] = []
    for heading in re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S), re.M):
        anchor = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        found.append(anchor if anchor not in found else f"{anchor}-{found.count(anchor)}")
    return found


def test_links_lead_somewhere() -> None:
    for document in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES]:
        text = re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
            path, _, anchor = target.partition("#")
            file = (document.parent / path).resolve() if path else document
            assert file.exists(), f"{document.name}: {target}"
            if anchor:
                assert anchor in headings(file), f"{document.name}: {target}"


def test_every_page_is_in_the_table_of_contents() -> None:
    listed = "\n".join(re.findall(r"^```{toctree}\n(.*?)^```$", (DOCS / "index.md").read_text(), re.M | re.S))
    assert {page.relative_to(DOCS).with_suffix("").as_posix() for page in PAGES} - {"index"} == {
        line for line in listed.splitlines() if line and not line.startswith(":")
    }


def test_the_drawing_of_states_names_all_of_them() -> None:
    drawing = (DOCS / "static" / "states.svg").read_text()
    page = (DOCS / "reference" / "states.md").read_text()
    states = re.findall(r"^\| `(\w+)` \|", page[: page.index("The same in words")], re.MULTILINE)
    assert states == ["ready", "scheduled", "running", "blocked", "dead"]
    for state in states:
        assert f">{state}</text>" in drawing
    assert "<desc" in drawing
    assert "prefers-color-scheme: dark" in drawing


def test_what_the_reliability_page_names_is_there() -> None:
    text = (DOCS / "reliability.md").read_text()
    for path in re.findall(r"`(tests/[\w/.]+)`", text):
        assert (ROOT / path).exists(), path
    for name in re.findall(r"`(\w+\.spec)`", text):
        assert (ROOT / "tests" / "isolation" / "specs" / name).exists(), name
    for name in re.findall(r"`(test_\w+\.py)`", text):
        assert (ROOT / "tests" / "python" / name).exists(), name
    for name in re.findall(r"`make ([\w-]+)`", text):
        assert re.search(rf"^{name}:", (ROOT / "Makefile").read_text(), re.MULTILINE), name
