"""The queues that bench/workers.py and bench/senders.py compare: one module each, with a subclass of Peer.

A module is imported only where its queue is wanted: a worker's process holds nothing of the others.
"""

from __future__ import annotations

from importlib import import_module

from bench.peers.peer import Peer, Variant

# The name of each variant, and the module that has it.
MODULES = {
    "sqlxmq": "sqlxmq_worker",
    "sqlxmq-batch": "sqlxmq_worker",
    "sqlxmq-sdk": "sqlxmq_sdk",
    "sqlxmq-sdk-asyncpg": "sqlxmq_sdk",
    "procrastinate": "procrastinate_worker",
    "pgqueuer": "pgqueuer_worker",
    "pgqueuer-batch": "pgqueuer_worker",
    "oban": "oban_worker",
    "chancy": "chancy_worker",
    "pgmq": "pgmq_worker",
    "graphile-worker": "graphile_worker",
    "graphile-worker-queues": "graphile_worker",
    "pg-boss": "pg_boss",
}


def variant(name: str) -> Variant:
    """A variant, by its name. Raises KeyError if there is none."""
    found: Variant = import_module(f"bench.peers.{MODULES[name]}").VARIANTS[name]
    return found


def load(name: str, dsn: str, settings: dict[str, object] | None = None) -> Peer:
    """A queue, by the name of its variant; settings: other ones than the variant's.

    Raises KeyError if there is no such variant.
    """
    module = import_module(f"bench.peers.{MODULES[name]}")
    peer: Peer = module.PEER(name, dsn, variant(name).settings if settings is None else settings)
    return peer


def alternatives(name: str) -> list[dict[str, object]]:
    """Settings of a variant to try, the chosen ones first. Raises KeyError if there is no such variant."""
    best = variant(name)
    return [best.settings, *({**best.settings, **changes} for changes in best.tried)]
