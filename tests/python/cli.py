"""Running the command line as its users do: as a process, against a test's database."""

from __future__ import annotations

import io
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from sqlxmq.cli import main
from tests.python.conftest import Database

COMMAND = [sys.executable, "-m", "sqlxmq"]


def environment(database: Database | None) -> dict[str, str]:
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "SQLXMQ", "DATABASE"))}
    variables["COLUMNS"] = "200"
    if database is not None:
        variables["SQLXMQ_DATABASE"] = database.dsn
    return variables


@dataclass
class Result:
    """What a command did."""

    code: Any
    stdout: str
    stderr: str


def call(database: Database | None, *arguments: str, given: str | bytes | None = None, code: int = 0) -> Result:
    """Runs a command to its end, and checks its exit code; a failure is one line and no traceback.

    In this process, as starting one for each of many calls would take most of the time.
    """
    stdout, stderr = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8")
    stdin = io.TextIOWrapper(io.BytesIO(given.encode() if isinstance(given, str) else given or b""), "utf-8")
    with ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ, environment(database), clear=True))
        stack.enter_context(mock.patch.multiple(sys, argv=["sqlxmq", *arguments], stdin=stdin))
        stack.enter_context(redirect_stdout(stdout))
        stack.enter_context(redirect_stderr(stderr))
        ended = stack.enter_context(pytest.raises(SystemExit))
        main()
    written = []
    for stream in (stdout, stderr):
        stream.flush()
        written.append(stream.buffer.getvalue().decode())
    result = Result(ended.value.code, *written)
    assert result.code == code, (arguments, result.code, result.stdout, result.stderr)
    assert "Traceback" not in result.stderr
    if code:
        errors = [line for line in result.stderr.splitlines() if line.startswith("sqlxmq: ")]
        assert len(errors) <= 1, result.stderr
        assert errors or code == 3, result.stderr
    return result


def output(database: Database | None, *arguments: str, given: str | bytes | None = None) -> str:
    """What a command prints on standard output."""
    return call(database, *arguments, given=given).stdout


def parsed(database: Database, *arguments: str) -> Any:
    """What a command prints with --json."""
    return json.loads(output(database, *arguments, "--json"))


def error(database: Database | None, *arguments: str, code: int = 1) -> str:
    """The one line on standard error with which a command fails."""
    return call(database, *arguments, code=code).stderr.strip()


@contextmanager
def at_terminal(database: Database, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], bytearray, int]]:
    """A command at a terminal, what it has written so far, and the terminal."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, *arguments], env={**environment(database), "TERM": "xterm"},
        stdin=follower, stdout=follower, stderr=follower,
    )  # fmt: skip
    os.close(follower)
    written = bytearray()

    def read() -> None:
        with suppress(OSError):  # the other end is closed
            while data := os.read(leader, 4096):
                written.extend(data)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield process, written, leader
    finally:
        process.kill()
        process.wait()
        reader.join()
        os.close(leader)


def answer(database: Database, *arguments: str, keys: str) -> tuple[int, str]:
    """Runs a command at a terminal, where it is answered; its exit code and all that it wrote."""
    with at_terminal(database, *arguments) as (process, written, terminal):
        wait_until(lambda: b"[y/N]" in written, "the question")
        os.write(terminal, keys.encode())
        code = process.wait(60)
    return code, written.decode()


@contextmanager
def started(database: Database, *arguments: str, cwd: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A command that goes on, such as a worker; what it writes goes to the log."""
    with log.open("ab") as to:
        process = subprocess.Popen(
            [*COMMAND, *arguments], env=environment(database), cwd=cwd, stdin=subprocess.DEVNULL, stdout=to, stderr=to
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_until(condition: Callable[[], Any], what: str, log: Path | None = None, seconds: float = 60) -> Any:
    """Waits until the condition is true, and returns what it returned."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        written = log.read_text() if log and log.exists() else ""
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}\n{written}"
        time.sleep(0.02)
    return value


def is_alive(pid: int) -> bool:
    """Whether a process is there, and is not one that nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def children_of(pid: int) -> list[int]:
    """The processes that a process has started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields: Sequence[str] = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found
