"""Faults from outside for `integrity`: workers killed or stopped, versions switched, clients that leave or send slowly.

Nothing in the server knows of them. Inputs on which the engine fails are requests, so `serving_requests` makes them.
"""

import asyncio
import contextlib
import itertools
import math
import os
import signal
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from server.serving_file import Entry, write_serving
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


@dataclass
class VersionSwitches:
    """Switches a model between its versions, by writing the file that says what to serve."""

    server: ServerProcess
    file: Path
    models: Mapping[str, Sequence[str]]
    """Versions of every model; the first one of each is served from the beginning."""
    done: int = 0
    _wanted: dict[str, float] = field(default_factory=dict)
    """By version of a model: when it was last asked for."""
    _replaced: dict[str, float] = field(default_factory=dict)
    """By version of a model: since when another one is known to be served."""

    async def switch(self, name: str) -> None:
        """Serve the next version of a model, and wait until it is."""
        versions = self.models[name]
        old, new = (f"{name} {versions[(self.done + step) % len(versions)]}" for step in (0, 1))
        self.done += 1
        self._wanted[new] = time.perf_counter()
        self._replaced.pop(new, None)
        write_serving(self.file, self.desired(name))
        while new not in await asyncio.to_thread(self._served):
            await asyncio.sleep(0.05)
        self._replaced[old] = time.perf_counter()

    def desired(self, switched: str) -> dict[str, Entry]:
        """What the file says after the switches of one model so far."""
        turn = {name: self.done if name == switched else 0 for name in self.models}
        return {name: Entry(version=found[turn[name] % len(found)]) for name, found in self.models.items()}

    def allow(self, name: str, version: str, sent: float, finished: float) -> bool:
        """Whether a request that was under way between these times may have been answered by this version."""
        key = f"{name} {version}"
        first = self.models[name][0] == version
        begins = -math.inf if first and key not in self._wanted else self._wanted.get(key, math.inf)
        return finished >= begins and sent <= self._replaced.get(key, math.inf)

    def _served(self) -> set[str]:
        return {f"{model['name']} {model['version']}" for model in self.server.get("/models")[1]["models"]}


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
