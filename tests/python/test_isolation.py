"""What takes two sessions, in every order in which it can happen."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.isolation.play import find_tester, play_all
from tests.python.conftest import ROOT, Database, create_database
from tools.cluster import Cluster

SPECIFICATIONS = sorted((ROOT / "tests" / "isolation" / "specs").glob("*.spec"))


@pytest.fixture(scope="module")
def stage(server: Cluster) -> Database:
    database = create_database(server, "template1")
    with database.connect() as session:
        session.execute((ROOT / "tests" / "isolation" / "prelude.sql").read_bytes())
    return database


def test_there_are_specifications() -> None:
    assert len(SPECIFICATIONS) >= 14


@pytest.mark.parametrize("path", SPECIFICATIONS, ids=lambda path: path.stem)
def test_promises_hold_in_every_order(stage: Database, path: Path) -> None:
    tester = find_tester()
    assert tester is not None, "PostgreSQL's isolation tester is missing: install postgresql-client-15"
    orders, problems = play_all(tester, stage.dsn, path)
    assert orders > 1
    assert problems == []
