"""Load on a server: open loop with Poisson arrivals, closed loop with a number of connections, and what came of it.

In an open loop requests are sent when they are due, whatever the server does, and latency counts from when a request
was due: a generator that waits for a slow server would otherwise hide that it is slow (coordinated omission).
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from serving_client import Pool, Reply

TAPER = 0.25
"""Part of a window at either end of it over which the weight of replies rises and falls, in `tapered_rate`."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One request; times are seconds since the load began."""

    due: float
    """When it was to be sent."""
    finished: float
    """When the last byte of its reply was there."""
    reply: Reply

    @property
    def seconds(self) -> float:
        """Latency, from when it was due."""
        return self.finished - self.due


def arrivals(rate: float, seconds: float, generator: np.random.Generator) -> list[float]:
    """Seconds at which requests are due: a Poisson process of `rate` per second."""
    expected = rate * seconds
    gaps = generator.exponential(1 / rate, size=int(expected + 6 * expected**0.5 + 20))
    due = np.cumsum(gaps)
    return [float(second) for second in due[due < seconds]]


async def open_loop(port: int, requests: Sequence[bytes], due: Sequence[float]) -> list[Sample]:
    """Send the requests in turn, each when it is due; returns when the last reply has come."""
    pool = Pool(port)
    samples: list[Sample] = []
    started = time.perf_counter()

    async def one(second: float, request: bytes) -> None:
        reply = await pool.ask(request)
        samples.append(Sample(second, time.perf_counter() - started, reply))

    tasks = []
    for number, second in enumerate(due):
        wait = started + second - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.create_task(one(second, requests[number % len(requests)])))
    await asyncio.gather(*tasks)
    pool.close()
    return sorted(samples, key=lambda sample: sample.due)


async def closed_loop(port: int, requests: Sequence[bytes], *, connections: int, seconds: float) -> list[Sample]:
    """Send the next request on each connection as soon as its reply has come, and begin none after `seconds`."""
    pool = Pool(port)
    samples: list[Sample] = []
    started = time.perf_counter()
    number = 0

    async def client() -> None:
        nonlocal number
        connection = await pool.take()
        while (due := time.perf_counter() - started) < seconds:
            number += 1
            reply = await connection.ask(requests[number % len(requests)])
            samples.append(Sample(due, time.perf_counter() - started, reply))
            if connection.closed:
                connection = await pool.take()
        pool.give(connection)

    await asyncio.gather(*(client() for _ in range(connections)))
    pool.close()
    return sorted(samples, key=lambda sample: sample.finished)


def tapered_rate(finished: Sequence[float], begin: float, end: float) -> float:
    """Replies per second between `begin` and `end`, where replies may come in lumps because batches finish at once.

    Replies near either end count less, in proportion to their distance from it: a window with sharp ends would gain or
    lose up to a whole batch, depending on where between two batches it begins.
    """
    if end <= begin:
        raise ValueError(f"a rate needs time: from {begin} to {end} s there is none")
    times = np.asarray(finished, dtype=np.float64)
    ramp = TAPER * (end - begin)
    weights = np.clip(np.minimum(times - begin, end - times) / ramp, 0, 1)
    return float(weights.sum() / (end - begin - ramp))


def statuses(samples: Sequence[Sample]) -> dict[int, int]:
    """How many replies had which status."""
    return dict(sorted(Counter(sample.reply.status for sample in samples).items()))


def heads_used(samples: Sequence[Sample]) -> list[int]:
    """Heads that voted on each row that was predicted."""
    bodies = (json.loads(sample.reply.body) for sample in samples if sample.reply.status == 200)
    return [row["heads_used"] for body in bodies for row in body["predictions"]]
