"""What wants to know how jobs run: metrics, for example."""

from __future__ import annotations

from sqlxmq._delivery import Delivery


class Observer:
    """Is told of the jobs that a runner runs; JobRegistry.add_observer takes one. Its methods are called in
    the event loop, and must not block."""

    def started(self, delivery: Delivery) -> None:
        """A job's function is about to be called.

        Args:
            delivery: the job.
        """

    def ended(self, delivery: Delivery, outcome: str, seconds: float) -> None:
        """A job's function has ended.

        Args:
            delivery: the job.
            outcome: "completed", "failed", "retried", "snoozed", "cancelled", "released" (given back by a
                worker that ends) or "lost" (the lease was).
            seconds: how long it took.
        """
