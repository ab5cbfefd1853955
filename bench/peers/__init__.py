"""The queues that bench/workers.py compares: one module each, named …_worker, with a subclass of Peer.

A module is imported only where its queue is wanted: a worker's process holds nothing of the others.
"""

from __future__ import annotations

from importlib import import_module

from bench.peers.peer import Peer

# The name of each variant, and the module that has it.
MODULES = {
    "sqlxmq": "sqlxmq_worker",
    "sqlxmq-batch": "sqlxmq_worker",
    "procrastinate": "procrastinate_worker",
    "pgqueuer": "pgqueuer_worker",
    "pgqueuer-batch": "pgqueuer_worker",
    "oban": "oban_worker",
    "chancy": "chancy_worker",
}


def load(name: str, dsn: str, settings: dict[str, object] | None = None) -> Peer:
    """A queue, by the name of its variant; settings: other ones than the variant's.

    Raises KeyError if there is no such variant.
    """
    module = import_module(f"bench.peers.{MODULES[name]}")
    variant = module.VARIANTS[name]
    peer: Peer = module.PEER(name, dsn, variant.settings if settings is None else settings)
    return peer


def alternatives(name: str) -> list[dict[str, object]]:
    """Settings of a variant to try, the chosen ones first. Raises KeyError if there is no such variant."""
    variant = import_module(f"bench.peers.{MODULES[name]}").VARIANTS[name]
    return [variant.settings, *({**variant.settings, **changes} for changes in variant.tried)]
