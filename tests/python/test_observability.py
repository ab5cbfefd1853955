"""The examples of docs/howto/monitoring.md run, and its table of metrics is whole."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import psycopg
from prometheus_client import CollectorRegistry

from sqlxmq.prometheus import JobMetrics, QueueCollector
from tests.python.conftest import ROOT, Database, until

DOCUMENT = (ROOT / "docs" / "howto" / "monitoring.md").read_text()


def example(name: str) -> str:
    return "\n".join(re.findall(rf"<!-- file: {name} -->\n```python\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL))


def free_ports() -> tuple[int, int]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return one.getsockname()[1], other.getsockname()[1]


def scraped(port: int) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
            return str(answer.read(), "utf-8")
    except OSError:
        return ""


async def test_the_examples_run(database: Database, session: psycopg.Connection[Any], tmp_path: Path) -> None:
    for to in ("ann@example.org", "busy@example.org"):
        session.execute(
            "SELECT mq_enqueue('send_mail', jsonb_build_object('to', %s::text), channel_name => 'mail')", (to,)
        )
    at_worker, at_exporter = free_ports()
    environment = {**os.environ, **database.server.environment(database.name)}
    started: dict[str, subprocess.Popen[bytes]] = {}
    output = {name: tmp_path / f"{name}.output" for name in ("worker.py", "exporter.py")}
    try:
        for name in output:
            text = example(name).replace("9464", str(at_worker)).replace("9465", str(at_exporter))
            with output[name].open("wb") as file:
                started[name] = subprocess.Popen(
                    [sys.executable, "-u", "-c", text], env=environment, stdout=file, stderr=subprocess.STDOUT
                )

        async def shows(port: int, *lines: str) -> None:
            def condition() -> bool:
                for name, process in started.items():
                    assert process.poll() is None, output[name].read_text()
                return set(lines) <= set(scraped(port).splitlines())

            await until(condition, f"{port} shows {lines}")

        await shows(
            at_worker,
            'sqlxmq_jobs_total{name="send_mail",outcome="completed"} 1.0',
            'sqlxmq_jobs_total{name="send_mail",outcome="retried"} 1.0',
            'sqlxmq_queue_jobs{channel_name="mail",state="scheduled"} 1.0',
        )
        await shows(at_exporter, 'sqlxmq_queue_jobs{channel_name="mail",state="scheduled"} 1.0', "sqlxmq_queue_up 1.0")
        worker = started["worker.py"]
        worker.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(worker.wait, 60) == 0
    finally:
        for process in started.values():
            process.kill()
            process.wait()
    written = output["worker.py"].read_text()
    assert re.search(
        r"^INFO job \S+ of send_mail was retried .*busy \[job send_mail, attempt 1\]$", written, re.MULTILINE
    )
    assert re.search(r"^INFO worker \S+ has stopped \[job -, attempt -\]$", written, re.MULTILINE)
    assert written.count('"name": "process mail"') == 2


def test_every_metric_is_in_the_document() -> None:
    metrics = CollectorRegistry()
    JobMetrics(metrics)
    names = {family.name + "_total" * (family.type == "counter") for family in metrics.collect()}
    names |= {family.name for family in QueueCollector("").describe()}
    assert names == set(re.findall(r"^\| `(sqlxmq_\w+)` \|", DOCUMENT, re.MULTILINE))
