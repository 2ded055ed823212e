"""The batcher in made-up time: random arrivals, sizes, deadlines, withdrawals and faults, and every row gets its own.

Only the engine is replaced, by one that takes the time its costs say and fails when told to.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.costs import CostSurface
from runtime.errors import EngineError, InputError
from runtime.predictor import Finished, Limit, Prediction, Predictions, Timing, Wish
from runtime.preprocess import Row
from server.admission import Costs, Policy
from server.batcher import Answered, Batcher, Compute, Expired, RowFailed, Ticket
from server.metrics import PrometheusObserver
from tests.server.virtual import VirtualLoop, run

HEADS = 3
SIZES = (1, 2, 4)


def costs_of(first: float, more: float, tokens: Sequence[int] = (0,)) -> Costs:
    """Each stage takes `first` seconds for a row and `more` for every further one, longer for longer texts."""
    surfaces = {}
    for place, length in enumerate(tokens, 1):
        stage = tuple(place * (first + more * (size - 1)) for size in SIZES)
        surfaces[length] = CostSurface(tokens=length, batch_sizes=SIZES, trunk=stage, heads=(stage,) * HEADS)
    return Costs(surfaces, most_rows=SIZES[-1])


def make_row(identity: int, tokens: int = 0) -> Row:
    return {"identity": np.array(identity), "tokens": np.array(tokens)}


def identity_of(row: Row) -> int:
    return int(row["identity"])


def tokens_of(row: Row) -> int:
    return int(row["tokens"])


def prediction_of(identity: int, heads: int) -> Prediction:
    """A prediction that can be told from that of every other row."""
    return Prediction(np.array([float(identity)]), np.full((heads, 1), float(identity)), HEADS, "all", None)


@dataclass
class Engine:
    """Computes in made-up time. Rows that want confidence are done after one head."""

    costs: Costs
    workers: int
    bad: set[int] = field(default_factory=set)
    """Rows that break every batch they are in."""
    failing_calls: set[int] = field(default_factory=set)
    """Calls that fail after the first head, whatever their rows."""
    slowness: float = 1.0
    stall: float = 0.0
    """Time for which the whole event loop hangs, at the end of each call: its timers are late."""
    batches: list[tuple[list[int], Limit | None]] = field(default_factory=list)
    tickets: dict[int, tuple[Ticket, int]] = field(default_factory=dict)
    running: int = 0

    def __post_init__(self) -> None:
        self.quiet = deepcopy(self.costs)  # the batcher changes its own

    async def __call__(
        self, rows: Sequence[Row], wishes: Sequence[Wish], limit: Limit | None, finished: Finished
    ) -> Predictions:
        now = asyncio.get_running_loop().time()
        identities = [identity_of(row) for row in rows]
        for ticket, position in (self.tickets[identity] for identity in identities if identity in self.tickets):
            assert not ticket.answers[position].done(), "a row was computed that nobody waits for"
            assert ticket.deadline > now, "a row was computed after its deadline"
        [tokens] = {tokens_of(row) for row in rows}
        call = len(self.batches)
        self.batches.append((identities, limit))
        self.running += 1
        assert self.running <= self.workers
        assert len(rows) <= SIZES[-1]
        try:
            return await self._compute(call, identities, tokens, wishes, limit, finished)
        finally:
            self.running -= 1

    async def _compute(
        self, call: int, identities: list[int], tokens: int, wishes: Sequence[Wish], limit: Limit | None,
        finished: Finished,
    ) -> Predictions:  # fmt: skip
        most = HEADS if limit is None else limit.heads
        heads = [1 if wish.min_confidence is not None else wish.heads or most for wish in wishes]
        predictions = [prediction_of(*each) for each in zip(identities, heads, strict=True)]
        stages = [self.slowness * self.quiet.batch_seconds(len(heads), 1, tokens) / 2] * (1 + max(heads))
        await asyncio.sleep(stages[0] + stages[1])
        if min(heads) < max(heads):
            early = [place for place, used in enumerate(heads) if used == 1]
            if early:
                finished(early, [predictions[place] for place in early])
        await asyncio.sleep(sum(stages[2:]))
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.now += self.stall
        if self.bad & set(identities):
            raise EngineError("a bad row")
        if call in self.failing_calls:
            raise MemoryError("a bad moment")
        return Predictions(predictions, Timing(stages[0], tuple(stages[1:]), 0.0))


def batcher_of(engine: Engine, *, floor: int = HEADS, target_seconds: float = 1.0) -> Batcher:
    policy = Policy(floor=floor, target_seconds=target_seconds, most_waiting=10**6, workers=engine.workers)
    return make_batcher(engine, engine.costs, policy)


OBSERVER = PrometheusObserver()
POLICY = Policy(floor=HEADS, target_seconds=1.0, most_waiting=9)


def make_batcher(compute: Compute, costs: Costs, policy: Policy) -> Batcher:
    now = asyncio.get_running_loop().time
    return Batcher("model", compute, costs, policy, OBSERVER, tokens_of=tokens_of, clock=now, timer=now)


async def settle() -> None:
    """Let everything happen that takes no time."""
    for _ in range(10):
        await asyncio.sleep(0)


def play(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run in made-up time. An error that asyncio would only log, as when a future is resolved twice, is raised."""
    problems: list[dict[str, Any]] = []

    async def watched() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
        await coroutine

    run(watched())
    assert problems == []


@dataclass
class Submit:
    """After `delay` seconds, a request comes."""

    delay: float
    rows: list[tuple[int, bool]]
    """For each row: the index of its length, and whether it breaks the engine."""
    timeout: float
    wish: Wish
    withdrawn_after: float | None


LENGTHS = (16, 64)
INSTANT = 1e-6
"""An event loop may run a timer early by the resolution of its clock."""
BAD = st.integers(0, 9).map(lambda dice: dice == 0)
EVENTS = st.lists(
    st.builds(
        Submit,
        delay=st.sampled_from([0.0, 0.0, 0.1, 1.0, 5.0]),
        rows=st.lists(st.tuples(st.integers(0, 1), BAD), min_size=1, max_size=9),
        timeout=st.sampled_from([0.05, 1.0, 5.0, 1000.0]),
        wish=st.sampled_from([Wish(), Wish(heads=1), Wish(heads=3), Wish(min_confidence=0.5)]),
        withdrawn_after=st.none() | st.sampled_from([0.0, 0.3, 3.0]),
    ),
    min_size=1,
    max_size=12,
)  # fmt: skip


@given(
    events=EVENTS, workers=st.integers(1, 3), floor=st.integers(1, HEADS), failing=st.sets(st.integers(0, 12)),
    slowness=st.sampled_from([0.5, 1.0, 20.0]), stall=st.sampled_from([0.0, 0.0, 2.0]),
)  # fmt: skip
def test_every_row_ends_exactly_once_with_what_is_its_own(
    events: list[Submit], workers: int, floor: int, failing: set[int], slowness: float, stall: float
) -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        engine = Engine(costs_of(0.1, 0.05, LENGTHS), workers, failing_calls=failing, slowness=slowness, stall=stall)
        batcher = batcher_of(engine, floor=floor, target_seconds=2.0)
        requests: list[tuple[Submit, Ticket, list[int]]] = []
        ends: dict[int, list[float]] = {}
        identity = 0
        for event in events:
            await asyncio.sleep(event.delay)
            rows = []
            for length, bad in event.rows:
                rows.append(make_row(identity, LENGTHS[length]))
                if bad:
                    engine.bad.add(identity)
                identity += 1
            ticket = batcher.submit(rows, event.wish, loop.time() + event.timeout)
            identities = [identity_of(row) for row in rows]
            requests.append((event, ticket, identities))
            for position, each in enumerate(identities):
                engine.tickets[each] = (ticket, position)
                ticket.answers[position].add_done_callback(
                    lambda _, each=each: ends.setdefault(each, []).append(loop.time())  # type: ignore[misc]
                )
            if event.withdrawn_after is not None:
                loop.call_later(event.withdrawn_after, ticket.cancel)
            await settle()
            assert engine.running == workers or not batcher.waiting.rows, "a worker is idle though rows wait"
        everything = [answer for _, ticket, _ in requests for answer in ticket.answers]
        await asyncio.wait(everything)
        await batcher.drained()
        await settle()
        assert (batcher.load.rows, batcher.load.seconds(engine.costs, POLICY), engine.running) == (0, 0.0, 0)
        for event, ticket, identities in requests:
            for each, answer in zip(identities, ticket.answers, strict=True):
                assert len(ends[each]) == 1
                check_end(engine, event, ticket, each, answer, ends[each][0])
        started = [each for identities, _ in engine.batches for each in identities]
        for length in LENGTHS:
            mine = [each for each in dict.fromkeys(started) if length_of(each, requests) == length]
            assert mine == sorted(mine), "a row overtook another"

    def length_of(identity: int, requests: list[tuple[Submit, Ticket, list[int]]]) -> int:
        for event, _, identities in requests:
            if identity in identities:
                return LENGTHS[event.rows[identities.index(identity)][0]]
        raise AssertionError(identity)

    def check_end(
        engine: Engine, event: Submit, ticket: Ticket, identity: int, answer: "asyncio.Future[Answered]", ended: float
    ) -> None:
        if answer.cancelled():
            assert event.withdrawn_after is not None
        elif isinstance(answer.exception(), Expired):
            assert ended >= ticket.deadline - INSTANT
        elif isinstance(answer.exception(), EngineError):
            assert identity in engine.bad
        elif isinstance(answer.exception(), MemoryError):
            calls = [call for call, (identities, _) in enumerate(engine.batches) if identities == [identity]]
            assert set(calls) & failing, "a row failed that was never the only one of a batch that failed"
        else:
            prediction = answer.result().prediction
            assert prediction.probabilities.tolist() == [float(identity)]
            assert engine.stall or ended <= ticket.deadline + INSTANT
            wish = event.wish
            if wish.heads is not None:
                assert prediction.heads_used == wish.heads
            elif wish.min_confidence is None:
                assert floor <= prediction.heads_used <= HEADS

    play(story())


def test_rows_of_several_requests_share_a_batch_and_an_idle_worker_never_waits() -> None:
    async def story() -> None:
        engine = Engine(costs_of(1.0, 0.0), workers=1)
        batcher = batcher_of(engine)
        tickets = [batcher.submit([make_row(each)], Wish(), 1000.0) for each in range(7)]
        for each, ticket in enumerate(tickets):
            [answered] = await ticket.wait()
            assert answered.prediction.probabilities.tolist() == [each]
        assert [identities for identities, _ in engine.batches] == [[0], [1, 2, 3, 4], [5, 6]]

    play(story())


def test_a_large_request_is_split_where_larger_batches_gain_nothing() -> None:
    async def story(more: float, expected: list[int]) -> None:
        engine = Engine(costs_of(1.0, more), workers=1)
        batcher = batcher_of(engine)
        answered = await batcher.submit([make_row(each) for each in range(6)], Wish(), 1000.0).wait()
        assert [each.prediction.probabilities[0] for each in answered] == list(range(6))
        assert [len(identities) for identities, _ in engine.batches] == expected

    play(story(0.1, [4, 2]))
    play(story(1.0, [1] * 6))


def test_idle_workers_divide_what_waits() -> None:
    async def story() -> None:
        engine = Engine(costs_of(1.0, 0.1), workers=2)
        await batcher_of(engine).submit([make_row(each) for each in range(4)], Wish(), 1000.0).wait()
        assert [identities for identities, _ in engine.batches] == [[0, 1], [2, 3]]

    play(story())


def test_short_texts_do_not_pay_for_long_ones() -> None:
    async def story() -> None:
        engine = Engine(costs_of(1.0, 0.0, LENGTHS), workers=1)
        batcher = batcher_of(engine)
        rows = [make_row(each, LENGTHS[each % 2]) for each in range(6)]
        await batcher.submit(rows, Wish(), 1000.0).wait()
        assert [identities for identities, _ in engine.batches] == [[0, 2, 4], [1, 3, 5]]

    play(story())


def test_a_row_that_is_sure_does_not_wait_for_the_others() -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        engine = Engine(costs_of(1.0, 0.0), workers=1)
        batcher = batcher_of(engine)
        blocker = batcher.submit([make_row(0)], Wish(heads=1), 1000.0)
        thorough = batcher.submit([make_row(1)], Wish(), 1000.0)
        sure = batcher.submit([make_row(2)], Wish(min_confidence=0.5), 1000.0)
        await blocker.wait()
        began = loop.time()
        await sure.wait()
        assert loop.time() - began == pytest.approx(2.0)
        await thorough.wait()
        assert loop.time() - began == pytest.approx(4.0)
        assert len(engine.batches) == 2

    play(story())


@pytest.mark.parametrize("count", [2, 3, 4])
def test_a_bad_row_fails_alone(count: int) -> None:
    async def story() -> None:
        for bad in range(count):
            engine = Engine(costs_of(1.0, 0.0), workers=1, bad={bad})
            batcher = batcher_of(engine)
            tickets = [batcher.submit([make_row(each)], Wish(), 1000.0) for each in range(count)]
            for each, ticket in enumerate(tickets):
                if each == bad:
                    with pytest.raises(RowFailed) as failed:
                        await ticket.wait()
                    assert isinstance(failed.value.__cause__, EngineError)
                else:
                    [answered] = await ticket.wait()
                    assert answered.prediction.probabilities.tolist() == [each]

    play(story())


def test_the_first_failed_row_is_named_and_the_rest_is_withdrawn() -> None:
    async def story() -> None:
        engine = Engine(costs_of(1.0, 1.0), workers=1, bad={2})
        batcher = batcher_of(engine)
        with pytest.raises(RowFailed) as failed:
            await batcher.submit([make_row(each) for each in range(5)], Wish(), 1000.0).wait()
        assert failed.value.index == 2
        await batcher.drained()
        assert [identities for identities, _ in engine.batches] == [[0], [1], [2]]

    play(story())


def test_an_engine_that_is_broken_for_good_fails_every_row_and_the_line_goes_on() -> None:
    async def story() -> None:
        engine = Engine(costs_of(1.0, 0.0), workers=1, failing_calls=set(range(10)))
        batcher = batcher_of(engine)
        for each in range(3):
            with pytest.raises(RowFailed):
                await batcher.submit([make_row(each)], Wish(), 1000.0).wait()
        engine.failing_calls.clear()
        assert await batcher.submit([make_row(9)], Wish(), 1000.0).wait()

    play(story())


def test_an_error_of_the_input_reaches_its_row() -> None:
    async def refuse(*_: object) -> Predictions:
        raise InputError("not_finite", "NaN")

    async def story() -> None:
        batcher = make_batcher(refuse, costs_of(1.0, 1.0), POLICY)
        with pytest.raises(RowFailed) as failed:
            await batcher.submit([make_row(0)], Wish(), 1000.0).wait()
        assert isinstance(failed.value.__cause__, InputError)

    play(story())


def test_a_deadline_is_kept_even_by_an_engine_that_never_returns() -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        engine = Engine(costs_of(1.0, 1.0), workers=1, slowness=1e6)
        batcher = batcher_of(engine)
        tickets = [batcher.submit([make_row(each)], Wish(), 3.0 + each) for each in range(3)]
        for each, ticket in enumerate(tickets):
            with pytest.raises(RowFailed) as failed:
                await ticket.wait()
            assert isinstance(failed.value.__cause__, Expired)
            assert loop.time() == pytest.approx(3.0 + each)
        assert batcher.waiting.rows == 0
        await batcher.drained()
        assert batcher.load.rows == 0
        assert [identities for identities, _ in engine.batches] == [[0]]

    play(story())


def test_a_row_that_seems_hopeless_makes_room_but_is_computed_where_it_is_alone() -> None:
    async def story() -> None:
        engine = Engine(costs_of(1.0, 0.0), workers=1, slowness=0.1)  # faster than estimated
        batcher = batcher_of(engine)
        [answered] = await batcher.submit([make_row(0)], Wish(), 1.0).wait()
        assert answered.prediction.probabilities.tolist() == [0.0]
        batcher.submit([make_row(1)], Wish(), 1000.0)
        hurried = batcher.submit([make_row(2)], Wish(), 1.0)  # the next batch takes from 0.8 to 1.2
        await batcher.submit([make_row(3)], Wish(), 1000.0).wait()
        with pytest.raises(RowFailed):
            await hurried.wait()
        assert [identities for identities, _ in engine.batches] == [[0], [1], [3]]

    play(story())


def test_who_stops_waiting_is_not_computed() -> None:
    async def story() -> None:
        engine = Engine(costs_of(1.0, 0.0), workers=1)
        batcher = batcher_of(engine)
        tickets = [batcher.submit([make_row(each)], Wish(), 1000.0) for each in range(4)]
        waiting = asyncio.create_task(tickets[2].wait())
        await settle()
        waiting.cancel()
        await tickets[3].wait()
        assert waiting.cancelled()
        assert [identities for identities, _ in engine.batches] == [[0], [1, 3]]

    play(story())


def test_heads_are_shed_while_rows_gather_and_come_back() -> None:
    async def story() -> None:
        engine = Engine(costs_of(1.0, 1.0), workers=1)
        batcher = batcher_of(engine, floor=1, target_seconds=16.5)
        tickets = [batcher.submit([make_row(each)], Wish(), 1000.0) for each in range(9)]
        promised = batcher.submit([make_row(9)], Wish(heads=3), 1000.0)
        used = [(await ticket.wait())[0].prediction.heads_used for ticket in tickets]
        assert used == [3, 1, 1, 1, 1, 2, 3, 3, 3]
        assert (await promised.wait())[0].prediction.heads_used == 3
        assert engine.batches[1][1] == Limit(1, "load")
        assert engine.batches[-1][1] is None

    play(story())


def test_heads_are_shed_for_a_deadline() -> None:
    async def story() -> None:
        engine = Engine(costs_of(1.0, 1.0), workers=1)
        batcher = batcher_of(engine, floor=1, target_seconds=1000.0)
        hurried = batcher.submit([make_row(0)], Wish(), 3.5)
        calm = batcher.submit([make_row(1)], Wish(), 1000.0)
        assert (await hurried.wait())[0].prediction.heads_used == 2
        assert (await calm.wait())[0].prediction.heads_used == 3
        assert [limit for _, limit in engine.batches] == [Limit(2, "deadline"), None]

    play(story())


@pytest.mark.parametrize("slowness", [0.5, 1.0, 4.0])
def test_costs_follow_the_engine(slowness: float) -> None:
    async def story() -> None:
        engine = Engine(costs_of(1.0, 0.5), workers=1)
        taking = engine.costs.batch_seconds(4, HEADS, 0)
        engine.slowness = slowness
        batcher = batcher_of(engine)
        for each in range(50):
            await batcher.submit([make_row(each)], Wish(), 1000.0).wait()
        assert engine.costs.batch_seconds(4, HEADS, 0) == pytest.approx(slowness * taking, rel=0.01)

    play(story())


def test_costs_follow_what_all_rows_ran_where_some_stop_early() -> None:
    async def story() -> None:
        engine = Engine(costs_of(1.0, 0.0), workers=1)
        batcher = batcher_of(engine)
        blocker = batcher.submit([make_row(0)], Wish(), 1000.0)
        mixed = [batcher.submit([make_row(each)], wish, 1000.0)
                 for each, wish in ((1, Wish()), (2, Wish(min_confidence=0.5)))]  # fmt: skip
        await blocker.wait()
        assert engine.costs.ratio == pytest.approx(1.0)
        engine.slowness = 3.0
        for ticket in mixed:
            await ticket.wait()
        assert 1.0 < engine.costs.ratio < 3.0

    play(story())
