"""Plays a specification of PostgreSQL's isolation tester in every order in which its steps can happen.

The tester itself can try all interleavings, but many are impossible: a step that waits for a lock
cannot be followed by the next step of its own session. The tester would wait for its timeout there.
So the orders are made here, and those that cannot happen are found from the ones that can.

A specification fails when its teardown finds a promise broken, when a step fails with an error that
no line «# allowed error: text» allows, or when a step waits although a line «# never: waiting» (or
«# never: waiting_of name», for steps with that in their names) says that it never does.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

Order = tuple[str, ...]


def find_tester() -> Path | None:
    """Debian's isolation tester, newest major first; None where it is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/lib/pgxs/src/test/isolation/isolationtester"))
    return found[-1] if found else None


@dataclass
class Specification:
    """A specification and what has been learnt of it.

    Attributes: text, the file's; sessions, the steps of each session in their order, of which the
    last ends its transaction; blockers, for each beginning of an order that was tried, the session
    whose end its last step waits for (None: it does not wait).
    """

    tester: Path
    dsn: str
    text: str
    sessions: dict[str, list[str]] = field(init=False)
    blockers: dict[Order, str | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sessions = {}
        for kind, name in re.findall(r"^(session|step) (\w+)", self.text, re.MULTILINE):
            if kind == "session":
                self.sessions[name] = []
            else:
                self.sessions[list(self.sessions)[-1]].append(name)

    def orders(self) -> Iterator[Order]:
        """All interleavings of the sessions' steps."""

        def extend(begun: Order, left: dict[str, list[str]]) -> Iterator[Order]:
            if not any(left.values()):
                yield begun
            for session, steps in left.items():
                if steps:
                    yield from extend((*begun, steps[0]), {**left, session: steps[1:]})

        yield from extend((), self.sessions)

    def session_of(self, step: str) -> str:
        """The session that a step belongs to."""
        return next(session for session, steps in self.sessions.items() if step in steps)

    def happens(self, order: Order) -> bool:
        """Whether the order is possible: no session takes a step while its last one waits."""
        for place, step in enumerate(order):
            session = self.session_of(step)
            following = [s for s in order[place + 1 :] if self.session_of(s) == session]
            blocker = self.blocker(order[: place + 1]) if following else None
            if blocker and order.index(self.sessions[blocker][-1]) > order.index(following[0]):
                return False
        return True

    def blocker(self, begun: Order) -> str | None:
        """The session whose end the last of these steps waits for, if it waits."""
        if begun not in self.blockers:
            mine = self.session_of(begun[-1])
            # All other sessions end now, those that wait last; each end lets somebody go on.
            others = [s for s in self.sessions if s != mine and any(self.session_of(step) == s for step in begun)]
            others.sort(key=lambda s: self.waits_at_end_of(begun[:-1], s))
            ends = [self.sessions[s][-1] for s in others if self.sessions[s][-1] not in begun]
            own = [self.sessions[mine][-1]] if self.sessions[mine][-1] not in begun else []
            _, output = self.run((*begun, *ends, *own))
            latest, went_on = begun[-1], begun[-1]
            for line in output.splitlines():
                if match := re.match(r"step (\w+): (<\.\.\. completed>)?", line):
                    if not match[2]:
                        latest = match[1]
                    elif match[1] == begun[-1]:
                        went_on = latest
            self.blockers[begun] = None if went_on == begun[-1] else self.session_of(went_on)
        return self.blockers[begun]

    def waits_at_end_of(self, begun: Order, session: str) -> bool:
        """Whether the session's latest step is still waiting after these."""
        places = [place for place, step in enumerate(begun) if self.session_of(step) == session]
        if not places:
            return False
        blocker = self.blockers.get(begun[: places[-1] + 1])
        return blocker is not None and self.sessions[blocker][-1] not in begun

    def run(self, order: Order) -> tuple[int, str]:
        """Plays one order; returns the tester's exit code and what it printed."""
        done = subprocess.run(
            [self.tester, self.dsn],
            input=f"{self.text}\npermutation {' '.join(order)}\n",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )
        return done.returncode, done.stdout

    def problems(self, order: Order) -> str | None:
        """Plays one order; returns what went wrong, None if nothing did."""
        code, output = self.run(order)
        allowed = re.findall(r"^# allowed error: (.+)$", self.text, re.MULTILINE)
        never = re.findall(r"^# never: waiting(?:_of (\w+))?$", self.text, re.MULTILINE)
        bad = [
            line
            for line in output.splitlines()
            if ("ERROR:" in line and not any(text in line for text in allowed))
            or "failed:" in line
            or (
                line.endswith("<waiting ...>")
                and any(name in line.split(":")[0].removeprefix("step ") for name in never)
            )
        ]
        return f"{' '.join(order)}: exit {code}: {'; '.join(bad) or output[-500:]}" if code or bad else None


def play_all(tester: Path, dsn: str, path: Path) -> tuple[int, list[str]]:
    """Plays every possible order of a specification: how many there were, and what went wrong."""
    specification = Specification(tester, dsn, path.read_text())
    orders = [order for order in specification.orders() if specification.happens(order)]
    return len(orders), [problem for order in orders if (problem := specification.problems(order))]
