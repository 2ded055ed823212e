"""Load and what is reckoned from it: arrivals, rates of replies in lumps, growth of memory, recovery."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

import numpy as np
import pytest

from serving_client import NO_REPLY, Connection, Pool, Reply, request_bytes
from serving_load import Sample, arrivals, closed_loop, heads_used, open_loop, statuses, tapered_rate
from serving_overload import memory_growth, recovery_seconds
from serving_results import Aim, Latencies

OK = Reply(200, {}, b'{"predictions": [{"heads_used": 2}, {"heads_used": 1}]}')
REFUSED = Reply(429, {}, b"{}")
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def served(handler: Handler, client: Callable[[int], Awaitable[None]]) -> None:
    """Run a client against a server that does what `handler` says on each connection."""

    tasks: list[asyncio.Task[None]] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):  # clients abort their connections
            await handler(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async def both() -> None:
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        async with server:
            await client(server.sockets[0].getsockname()[1])
            await asyncio.gather(*tasks)

    asyncio.run(both())


def test_arrivals_are_a_poisson_process() -> None:
    due = arrivals(50, 200, np.random.default_rng(1))
    assert due == arrivals(50, 200, np.random.default_rng(1))
    assert due == sorted(due)
    assert 0 < due[0] < due[-1] < 200
    assert len(due) == pytest.approx(10_000, rel=0.05)
    gaps = np.diff(due)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)  # of an exponential distribution
    per_second = np.bincount(np.asarray(due, int), minlength=200)
    assert per_second.var() == pytest.approx(50, rel=0.3)


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.45, 0.89])
def test_a_rate_does_not_depend_on_where_lumps_are_cut(shift: float) -> None:
    lumps = [shift + 0.9 * number for number in range(-1, 40) for _ in range(16)]
    assert tapered_rate(lumps, 4, 18) == pytest.approx(16 / 0.9, rel=0.02)
    sharp = sum(4 <= second < 18 for second in lumps) / 14
    assert abs(sharp - 16 / 0.9) / (16 / 0.9) < 0.08  # what a sharp window may be off by


def test_a_rate_sees_that_replies_stop_coming() -> None:
    assert tapered_rate(np.arange(0, 10, 0.01).tolist(), 0, 10) == pytest.approx(100, rel=0.01)
    assert tapered_rate(np.arange(0, 5, 0.01).tolist(), 0, 10) == pytest.approx(50, rel=0.01)
    assert tapered_rate([], 0, 10) == 0
    with pytest.raises(ValueError, match="needs time"):
        tapered_rate([1.0], 3, 3)


def test_memory_grows_by_its_slope_whatever_a_few_samples_say() -> None:
    sizes = [(float(second), 1000 + 10 * second) for second in range(20)]
    grown = memory_growth(sizes)
    assert (grown.slope_bytes_per_second, grown.seconds) == (10, 19)
    assert grown.growth == pytest.approx(0.19)
    sizes[7] = (7.0, 10**9)
    assert memory_growth(sizes).slope_bytes_per_second == pytest.approx(10, rel=0.1)
    assert memory_growth([(0.0, 5), (9.0, 5)]).growth == 0
    with pytest.raises(ValueError, match="at least 2"):
        memory_growth(sizes[:1])


def recovering(*seconds: float, status: int = 200) -> list[Sample]:
    """Four samples in each second, all with the latency of that second."""
    reply = Reply(status, {}, b"")
    return [
        Sample(number + part, number + part + latency, reply)
        for number, latency in enumerate(seconds)
        for part in (0.1, 0.3, 0.5, 0.9)
    ]


def test_recovery_is_when_two_seconds_in_turn_are_normal() -> None:
    assert recovery_seconds(recovering(0.1, 0.1, 0.1), 0.1, 3) == 0
    assert recovery_seconds(recovering(2, 0.1, 1, 0.14, 0.145, 3), 0.1, 6) == 3
    assert recovery_seconds(recovering(2, 0.1, 1, 0.1), 0.1, 4) is None
    assert recovery_seconds(recovering(0.1, 0.1, status=504), 0.1, 2) is None
    assert recovery_seconds([], 0.1, 5) is None


def test_aims_are_judged_by_their_limit() -> None:
    assert Aim.at_least(0.9, "", 0.9).met
    assert not Aim.at_least(0.9, "", 0.89).met
    assert Aim.no_more_than(5, "", 5).met
    assert not Aim.no_more_than(5, "", 5.1).met
    assert not Aim.no_more_than(5, "", None).met
    assert Latencies.of([]) is None


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer each request with its body, in two pieces."""
    while head := await reader.readline():
        assert head == b"POST /predict HTTP/1.1\r\n"
        length = 0
        while (line := await reader.readline()) != b"\r\n":
            name, _, value = line.partition(b":")
            length = int(value) if name == b"content-length" else length
        body = await reader.readexactly(length)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nX-Request-Id: me\r\n\r\n" % length + body[:2])
        await writer.drain()
        await asyncio.sleep(0)
        writer.write(body[2:])


def test_a_connection_is_used_again_and_replies_may_come_in_pieces() -> None:
    async def client(port: int) -> None:
        pool = Pool(port)
        for body in (b"first", b"", b"second" * 1000):
            reply = await pool.ask(request_bytes("POST", "/predict", body))
            assert (reply.status, reply.headers["x-request-id"], reply.body) == (200, "me", body)
        assert len(pool._idle) == 1
        pool.close()
        assert pool.stray_bytes == 0

    served(echo, client)


def test_a_reply_too_many_and_a_reply_too_few_are_noticed() -> None:
    async def twice(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok" + b"HTTP/1.1 200 OK\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")

    async def client(port: int) -> None:
        connection = await Connection.open(port)
        assert (await connection.ask(request_bytes("GET", "/"))).body == b"ok"
        assert connection.stray_bytes == 19
        assert (await connection.ask(request_bytes("GET", "/"))).status == NO_REPLY
        assert (await connection.ask(request_bytes("GET", "/"))).status == NO_REPLY

    served(twice, client)


def test_an_open_loop_does_not_wait_for_replies_and_a_closed_one_does() -> None:
    at_once = most = 0

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal at_once, most
        while await reader.read(1000):
            at_once += 1
            most = max(most, at_once)
            await asyncio.sleep(0.05)
            at_once -= 1
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    async def client(port: int) -> None:
        nonlocal most
        requests = [request_bytes("GET", "/")]
        samples = await open_loop(port, requests, [0.001 * number for number in range(20)])
        assert [sample.due for sample in samples] == [0.001 * number for number in range(20)]
        assert statuses(samples) == {200: 20}
        assert min(sample.seconds for sample in samples) >= 0.05
        assert most > 5
        most = 0
        started = time.perf_counter()
        samples = await closed_loop(port, requests, connections=3, seconds=0.2)
        assert most <= 3
        assert len(samples) >= 3
        assert all(sample.due < 0.2 <= time.perf_counter() - started for sample in samples)

    served(slow, client)


def test_heads_and_statuses_are_counted() -> None:
    samples = [Sample(0, 1, OK), Sample(0, 1, REFUSED), Sample(1, 2, OK)]
    assert heads_used(samples) == [2, 1, 2, 1]
    assert statuses(samples) == {200: 2, 429: 1}
