"""The SQL that the package ships: the extension's own scripts, which also install as plain SQL."""

from __future__ import annotations

import re
from importlib.resources import files

from sqlxmq.cli.errors import WRONG_USAGE, Failure

SCRIPTS = files("sqlxmq") / "extension"

# What only an extension can do. A plain installation is dumped with the rest of the database anyway.
EXTENSION_ONLY = re.compile(r"^(\\echo .*\\quit|SELECT pg_catalog\.pg_extension_config_dump\(.*\);)\n", re.MULTILINE)


def shipped_version() -> str:
    """The version of the SQL in this package."""
    match = re.search(r"^default_version = '([^']+)'$", (SCRIPTS / "sqlxmq.control").read_text("utf-8"), re.MULTILINE)
    assert match, "sqlxmq.control names no default_version"
    return match[1]


def plain_installation(schema: str) -> str:
    """The SQL that installs the queue into this schema, whose search_path is set already."""
    return _plain(f"sqlxmq--{shipped_version()}.sql", schema)


def plain_updates(installed: str, schema: str) -> list[str]:
    """The SQL that leads from an installed version to the shipped one, script by script.

    Raises Failure if no scripts lead there.
    """
    wanted = shipped_version()
    # The shortest way, as ALTER EXTENSION … UPDATE takes it.
    ways = {installed: list[str]()}
    steps = sorted(_updates())
    current = [installed]
    while current and wanted not in ways:
        reached = []
        for start in current:
            for source, target in steps:
                if source == start and target not in ways:
                    ways[target] = [*ways[start], f"sqlxmq--{source}--{target}.sql"]
                    reached.append(target)
        current = reached
    if wanted not in ways:
        raise Failure(
            f"no scripts lead from version {installed}, which is installed, to {wanted}, which this package brings: "
            "install the package of a later version"
        )
    return [_plain(name, schema) for name in ways[wanted]]


def _updates() -> set[tuple[str, str]]:
    names = (file.name for file in SCRIPTS.iterdir())
    matches = (re.fullmatch(r"sqlxmq--(.+?)--(.+)\.sql", name) for name in names)
    return {(match[1], match[2]) for match in matches if match}


def _plain(name: str, schema: str) -> str:
    # CREATE EXTENSION refuses these, too: the name also stands within literals.
    if set(schema) & set("\"$'\\"):
        raise Failure(f"schema is {schema}, but its name must not contain any of \"$'\\", WRONG_USAGE)
    text = EXTENSION_ONLY.sub("", (SCRIPTS / name).read_text("utf-8"))
    return text.replace("@extschema@", quoted(schema))


def quoted(schema: str) -> str:
    """A schema's name as an identifier, in quotes even where it needs none: it may be a key word."""
    return '"' + schema.replace('"', '""') + '"'


def for_psql(schema: str) -> str:
    """The whole installation as a script for psql -f."""
    return (
        f"-- sqlxmq {shipped_version()} as plain SQL, into schema {quoted(schema)}: psql -v ON_ERROR_STOP=1 -f FILE\n"
        f"BEGIN;\nCREATE SCHEMA IF NOT EXISTS {quoted(schema)};\n"
        f"{preamble(schema)}\n{plain_installation(schema)}\nCOMMIT;\n"
    )


def preamble(schema: str) -> str:
    """The settings under which CREATE EXTENSION runs its scripts, for one transaction."""
    return (
        f"SET LOCAL search_path = {quoted(schema)}, pg_temp;\n"
        "SET LOCAL check_function_bodies = off;\n"
        "SET LOCAL client_min_messages = warning;\n"
    )
