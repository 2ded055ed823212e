"""Faults from outside for `integrity`: workers that are killed or stopped, clients that leave or send slowly.

Nothing in the server knows of them. Inputs on which the engine fails are requests, so `serving_requests` makes them.
"""

import asyncio
import contextlib
import itertools
import os
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from serving_client import Connection, Reply
from serving_machine import ServerProcess
from serving_requests import Case

LEAVES, DAWDLES = 0.02, 0.01
"""Parts of the requests whose client leaves, or sends in small pieces."""
LEAVE_SECONDS = 0.02
"""Longest time after which a client leaves that has sent its request."""
PIECES = 5
PIECE_SECONDS = 0.02
"""Mean pause between two pieces of a request."""
STUCK_SECONDS = 2.0
"""The server's limit for a call of a worker: a stopped one is killed after it."""
SLACK_SECONDS = 2.0
"""A worker's end may fail calls for this long after it: until it is noticed, on a machine that is busy."""


@dataclass
class WorkerFaults:
    """Kills and stops worker processes, the one that has lived longest first, so that no place is hit in a row."""

    server: ServerProcess
    workers: int
    """Processes that the server has when all is well."""
    done: Counter[str] = field(default_factory=Counter)
    windows: list[tuple[float, float]] = field(default_factory=list)
    """`perf_counter` times from a fault until its effects are over."""

    async def inject(self, kind: str) -> None:
        """`kill` or `stop` a worker, once all of them are there, so that every model keeps one."""
        while len(pids := self.server.worker_pids()) < self.workers:
            await asyncio.sleep(0.05)
        victim = min(pids, key=_started)
        now = time.perf_counter()
        lasts = SLACK_SECONDS + (STUCK_SECONDS if kind == "stop" else 0)
        self.windows.append((now, now + lasts))
        os.kill(victim, signal.SIGSTOP if kind == "stop" else signal.SIGKILL)
        self.done[f"workers {'stopped' if kind == 'stop' else 'killed'}"] += 1
        end = time.monotonic() + lasts
        while victim in self.server.worker_pids():
            if time.monotonic() > end:  # no call came to the stopped worker, so nobody has missed it
                os.kill(victim, signal.SIGCONT)
                return
            await asyncio.sleep(0.05)

    def explain(self, sent: float, finished: float) -> bool:
        """Whether a request that was under way between these times may have met a fault."""
        return any(sent <= end and finished >= begin for begin, end in self.windows)


async def leave(connection: Connection, case: Case, generator: np.random.Generator) -> None:
    """Send a request, or a part of it, and hang up."""
    whole = generator.random() < 0.5
    size = len(case.request) if whole else int(generator.integers(1, len(case.request)))
    connection.expect()  # whatever comes until then is no stray reply
    connection.write(case.request[:size])
    await asyncio.sleep(float(generator.uniform(0, LEAVE_SECONDS)))
    connection.close()


async def dawdle(connection: Connection, case: Case, generator: np.random.Generator) -> Reply:
    """Send a request in pieces, with pauses."""
    expected = connection.expect()
    cuts = sorted(int(cut) for cut in generator.integers(1, len(case.request), PIECES - 1))
    for start, end in itertools.pairwise([0, *cuts, len(case.request)]):
        connection.write(case.request[start:end])
        await asyncio.sleep(float(generator.exponential(PIECE_SECONDS)))
    return await connection.wait(expected)


def _started(pid: int) -> int:
    """When a process began, in ticks of the system; late for one that has ended."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    return 2**63
