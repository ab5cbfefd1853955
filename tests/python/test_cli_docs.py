"""docs/reference/cli.md: every command and option is there, and the examples run."""

from __future__ import annotations

import re
import shlex
from datetime import timedelta
from typing import Any

import pytest
import typer

from sqlxmq.cli.app import app
from sqlxmq.cli.durations import duration, in_words
from tests.python.cli import call, output
from tests.python.conftest import ROOT, Database
from tests.python.test_docs import blocks

TEXT = (ROOT / "docs" / "reference" / "cli.md").read_text()


def commands(group: Any, path: str = "sqlxmq") -> dict[str, Any]:
    """All commands by what one types."""
    found: dict[str, Any] = {}
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            found |= commands(command, f"{path} {name}")
        else:
            found[f"{path} {name}"] = command
    return found


ALL = commands(typer.main.get_command(app))


def test_every_command_is_documented_with_an_example() -> None:
    parts = re.split(r"^### ", TEXT, flags=re.MULTILINE)[1:]
    documented = {part.splitlines()[0]: part for part in parts}
    assert documented.keys() == ALL.keys()
    for command, part in documented.items():
        assert re.search(rf"^{command}\b", part.partition("```bash")[2], re.MULTILINE), f"{command}: no example"


@pytest.mark.parametrize("command", ALL)
def test_every_option_is_documented(command: str) -> None:
    for parameter in ALL[command].params:
        for option in parameter.opts:
            if option.startswith("--"):
                assert f"{option}" in TEXT, f"{command} {option}"


def test_no_option_is_documented_that_does_not_exist() -> None:
    options = {
        option
        for command in ALL.values()
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    options |= {"--database", "--schema", "--debug", "--version"}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", TEXT)) <= options


def test_the_examples_run(empty_database: Database) -> None:
    lines = [line for block in blocks("docs/reference/cli.md", "bash") for line in block.splitlines()]
    assert all(line.startswith("sqlxmq ") for line in lines)
    tried = 0
    for line in lines:
        arguments = shlex.split(line.partition(" > ")[0])[1:]
        if arguments[0] in ("run", "demo") or "--watch" in arguments:
            call(empty_database, arguments[0], "--help")  # what they do is tested elsewhere
            continue
        # By then there may be no such job left.
        is_change = "--yes" in arguments
        code = 3 if (is_change and arguments[1] != "clear") or arguments[:2] == ["dead", "clear"] else 0
        if arguments[:3] == ["jobs", "cancel", "--name"]:
            code = 0
        call(empty_database, *arguments, code=code)
        tried += 1
    assert tried >= 20


def test_durations() -> None:
    for text, seconds in {"90": 90, "90s": 90, "15m": 900, "2h": 7200, "1d": 86400, "1.5h": 5400, "0": 0}.items():
        assert duration(text) == timedelta(seconds=seconds)
    for text in ("", "-5", "1w", "5 apples", "h", "1e3", "9" * 400):
        with pytest.raises(typer.BadParameter, match="is no duration"):
            duration(text)
    written = {0: "0s", 59: "59s", 60: "1m", 3725: "1h 2m", 90000: "1d 1h", 86405: "1d 5s", -60: "-1m"}
    assert {seconds: in_words(timedelta(seconds=seconds)) for seconds in written} == written


def test_help_names_the_global_options_everywhere() -> None:
    for command in ALL:
        text = output(None, *command.split()[1:], "--help")
        assert "--database" in text
        assert "--schema" in text
