"""Rows that wait become batches, and every row gets its own answer. Knows no HTTP and no files.

Event driven: a batch starts when rows arrive at an idle worker or a worker becomes idle, never later for the hope of a
bigger one. First come, first served, by rows and not by requests; a batch holds texts of one padded length, that of the
row that waited longest. The number of rows and of heads comes from `server.admission`.
"""

import asyncio
import heapq
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from runtime.predictor import Finished, Limit, Prediction, Predictions, Wish
from runtime.preprocess import Row
from server.admission import Backlog, Costs, Load, Policy, choose_heads, pace
from server.metrics import Observer

HOPELESS = 0.7
"""Rows with less than this part of a batch's estimated time left would be late by far."""


class Expired(Exception):  # noqa: N818 - reads as a statement
    """The deadline of a row passed before its prediction was there."""


Compute = Callable[[Sequence[Row], Sequence[Wish], Limit | None, Finished], Awaitable[Predictions]]
"""Predicts a batch, elsewhere; calls `finished` on the event loop for rows that are done before the others."""


@dataclass(frozen=True)
class Answered:
    """The prediction of one row, and when its batch began, by the batcher's timer."""

    prediction: Prediction
    began: float


@dataclass(eq=False, slots=True)
class _Place:
    """One row in line."""

    number: int
    row: Row
    wish: Wish
    tokens: int
    answer: "asyncio.Future[Answered]"
    ticket: "Ticket"


class Ticket:
    """The rows of one request: a future for each, which ends exactly once, and the deadline of all."""

    def __init__(self, deadline: float, submitted: float) -> None:
        self.deadline = deadline
        self.submitted = submitted
        self.answers: list[asyncio.Future[Answered]] = []
        self.seen = False
        """One of its rows was taken into a batch."""

    async def wait(self) -> list[Answered]:
        """Return the answers in the order of the rows.

        Withdraws the rows that are left when one fails or the caller is cancelled. Raises RowFailed, whose cause is
        what the row raised: Expired, an InputError, or any error of the engine.
        """
        answered = []
        try:
            for answer in self.answers:
                answered.append(await answer)  # noqa: PERF401 - how many there were is what failed
        except Exception as error:
            raise RowFailed(len(answered)) from error
        finally:
            self.cancel()
        return answered

    def cancel(self) -> None:
        """Withdraw all rows that are not answered yet: those in line are never computed."""
        for answer in self.answers:
            if not answer.cancel() and not answer.cancelled():
                answer.exception()  # nobody else will ask for it


class RowFailed(Exception):  # noqa: N818
    """Row `index` of a ticket could not be predicted; the cause says why."""

    def __init__(self, index: int) -> None:
        super().__init__(f"row {index} failed")
        self.index = index


class Batcher:
    """Line and workers of one model. All methods belong to the event loop's thread."""

    def __init__(
        self,
        name: str,
        compute: Compute,
        costs: Costs,
        policy: Policy,
        observer: Observer,
        *,
        tokens_of: Callable[[Row], int],
        clock: Callable[[], float] = time.monotonic,
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._name = name
        self._compute = compute
        self._costs = costs
        self._policy = policy
        self._observer = observer
        self._tokens_of = tokens_of
        self._clock = clock
        self._timer = timer
        self._idle = policy.workers
        self._lines: dict[int, OrderedDict[int, _Place]] = {}
        self._running: dict[int, tuple[int, float]] = {}  # number of a batch -> rows, estimated seconds
        self.waiting = Backlog()
        """Rows in line, and those that the core has admitted and not submitted yet."""
        self._number = 0
        self._batches: set[asyncio.Task[None]] = set()

    @property
    def load(self) -> Load:
        """What waits and what runs."""
        rows, seconds = (sum(each) for each in zip((0, 0.0), *self._running.values(), strict=True))
        return Load(self.waiting, int(rows), seconds)

    def submit(self, rows: Sequence[Row], wish: Wish, deadline: float) -> Ticket:
        """Put rows in line. Those without an answer at `deadline`, by the batcher's clock, fail with Expired."""
        loop = asyncio.get_running_loop()
        ticket = Ticket(deadline, self._timer())
        places = []
        for row in rows:
            self._number += 1
            place = _Place(self._number, row, wish, self._tokens_of(row), loop.create_future(), ticket)
            ticket.answers.append(place.answer)
            places.append(place)
            self._lines.setdefault(place.tokens, OrderedDict())[place.number] = place
            self.waiting.add(1, wish.heads, place.tokens)
        timer = loop.call_later(max(0.0, deadline - self._clock()), self._expire, places)
        unsettled = len(places)

        def settled(place: _Place) -> None:
            nonlocal unsettled
            self._leave(place)
            unsettled -= 1
            if not unsettled:
                timer.cancel()

        for place in places:
            place.answer.add_done_callback(lambda _, place=place: settled(place))  # type: ignore[misc]
        self._dispatch()
        return ticket

    async def drained(self) -> None:
        """Wait until no batch is being computed."""
        while self._batches:
            await asyncio.wait(self._batches)

    def _dispatch(self) -> None:
        while self._idle and (line := self._longest_waiting()):
            limit = self._choose_heads()
            heads = self._costs.heads_total if limit is None else limit.heads
            share = math.ceil(len(line) / self._idle)  # idle workers divide what waits
            tokens = next(iter(line.values())).tokens
            count = self._costs.good_rows(share, heads, tokens)
            batch = self._take(line, count, self._costs.batch_seconds(count, heads, tokens))
            if batch:
                self._idle -= 1
                voting = max(place.wish.heads or heads for place in batch)
                seconds = self._costs.batch_seconds(len(batch), voting, tokens)
                self._running[batch[0].number] = len(batch), seconds
                task = asyncio.get_running_loop().create_task(self._run(batch, tokens, limit))
                self._batches.add(task)
                task.add_done_callback(self._batches.discard)

    def _longest_waiting(self) -> OrderedDict[int, _Place] | None:
        """The line whose first row has waited longest."""
        return min((line for line in self._lines.values() if line), key=lambda line: next(iter(line)), default=None)

    def _choose_heads(self) -> Limit | None:
        if self._policy.floor == self._costs.heads_total:
            return None
        now = self._clock()
        in_order = heapq.merge(*(line.values() for line in self._lines.values()), key=lambda place: place.number)
        seconds_left = [place.ticket.deadline - now for place in in_order]
        batch_rows = min(len(seconds_left), self._costs.most_rows)
        return choose_heads(self._costs, self.waiting, self._policy, seconds_per_row=pace(seconds_left, batch_rows))

    def _take(self, line: OrderedDict[int, _Place], count: int, seconds: float) -> list[_Place]:
        """The first `count` rows of a line that still want an answer and can have it in time.

        Rows that would be late by far, if the batch takes as long as estimated, make room for others: computed or not,
        they get their 504. Where there are no others they are computed, as the estimate may be wrong.
        """
        now = self._clock()
        taken: list[_Place] = []
        late: list[_Place] = []
        while line and len(taken) < count:
            place = next(iter(line.values()))
            self._leave(place)
            left = place.ticket.deadline - now
            if not place.answer.done() and left <= 0:  # its timer is late
                place.answer.set_exception(Expired())
            if not place.answer.done():
                (taken if left >= HOPELESS * seconds else late).append(place)
        return taken or late[:count]

    def _leave(self, place: _Place) -> None:
        """Take a row out of the line, if it is in it."""
        if self._lines[place.tokens].pop(place.number, None) is not None:
            self.waiting.remove(1, place.wish.heads, place.tokens)

    def _expire(self, places: Sequence[_Place]) -> None:
        for place in places:
            if not place.answer.done():
                place.answer.set_exception(Expired())

    async def _run(self, batch: list[_Place], tokens: int, limit: Limit | None) -> None:
        """Compute a batch on an idle worker, and give the worker back."""
        try:
            for place in batch:
                if not place.ticket.seen:
                    place.ticket.seen = True
                    self._observer.queued(self._name, self._timer() - place.ticket.submitted)
            await self._answer(batch, tokens, limit)
        except asyncio.CancelledError:  # the event loop ends
            for place in batch:
                place.answer.cancel()
            raise
        except Exception as error:
            for place in batch:
                if not place.answer.done():
                    place.answer.set_exception(error)
            raise
        finally:
            self._idle += 1
            del self._running[batch[0].number]
            asyncio.get_running_loop().call_soon(self._dispatch)
        self._observer.load_changed(self._name, self.waiting.rows, self._costs.ratio)

    async def _answer(self, places: list[_Place], tokens: int, limit: Limit | None) -> None:
        """Compute rows and answer them; where that fails, compute halves, so that a bad row fails alone."""
        now = self._clock()
        places = [place for place in places if not place.answer.done() and place.ticket.deadline > now]
        if not places:
            return
        began = self._timer()

        def finished(positions: Sequence[int], predictions: Sequence[Prediction]) -> None:
            for position, prediction in zip(positions, predictions, strict=True):
                if not places[position].answer.done():  # withdrawn, or too late
                    places[position].answer.set_result(Answered(prediction, began))

        try:
            found = await self._compute(
                [place.row for place in places], [place.wish for place in places], limit, finished
            )
        except Exception as error:  # engines raise errors of many kinds
            if len(places) == 1:
                if not places[0].answer.done():
                    places[0].answer.set_exception(error)
                return
            middle = len(places) // 2
            await self._answer(places[:middle], tokens, limit)
            await self._answer(places[middle:], tokens, limit)
            return
        finished(range(len(places)), found.predictions)
        self._learn(found, tokens, self._timer() - began)
        self._observer.computed(self._name, found.predictions, found.timing)

    def _learn(self, found: Predictions, tokens: int, seconds: float) -> None:
        """Keep the costs fresh. Where rows stopped at different heads, only what all of them ran is comparable."""
        rows, timing = len(found.predictions), found.timing
        used = {prediction.heads_used for prediction in found.predictions}
        if len(used) == 1:
            self._costs.measured(rows, used.pop(), tokens, seconds)
        elif timing.trunk_seconds is not None:
            self._costs.measured(rows, 1, tokens, timing.trunk_seconds + timing.head_seconds[0])
