"""Keeps a number of workers alive: starts them, replaces those that end, and finds one for each call."""

import contextlib
import logging
import os
import selectors
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from runtime.errors import EngineError, NeurotrailsError, WorkerDied, WorkersFailed, WorkerStuck
from runtime.workers.process import Worker
from runtime.workers.slices import Slice
from runtime.workers.wire import Lane, Load, Ready

logger = logging.getLogger("neurotrails")

HEALTHY_SECONDS = 60.0
"""A worker that was ready for so long is replaced at once; each one that was not delays the next a little more."""
FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS = 0.25, 30.0
LOAD_ATTEMPTS = 3
"""So many failures to load in a row, and a place counts as lost. Attempts go on, ever more rarely."""


@dataclass
class _Place:
    """A worker that there should be, whichever process it is."""

    name: str
    part: Slice
    load: Load | None = None
    """What its worker is to load; None: that is not known yet."""
    worker: Worker | None = None
    ready: Ready | None = None
    """What the worker said when it had loaded; None: it has not."""
    since: float = 0.0
    """When that was (monotonic)."""
    due: float | None = None
    """When to start the next worker, and when the present one must have loaded (monotonic)."""
    setbacks: int = 0
    """Workers in a row that ended before they had been ready for `HEALTHY_SECONDS`."""
    failures: int = 0
    """Loads in a row that failed."""
    error: NeurotrailsError | None = None
    """Why the last load failed."""
    line: bytes = b""
    """Beginning of a line that the worker is printing."""


class Pool:
    """Workers, one for each slice. A thread of the pool, the keeper, starts them all, and they end with it."""

    def __init__(self, name: str, parts: Sequence[Slice], *, lanes: int, load_timeout_seconds: float) -> None:
        """`name` is for messages; a worker can be given `lanes` calls at the same time."""
        self.name = name
        self._lanes = lanes
        self._load_timeout_seconds = load_timeout_seconds
        self._places = [_Place(f"Worker {index} of {name}", part) for index, part in enumerate(parts)]
        self._changed = threading.Condition()
        """Held to read or change anything here; notified when a lane or a worker comes or goes."""
        self._keeping = False
        self.replaced = 0
        """Workers that had loaded and ended since, and for which others were started."""
        self._closed = False
        self._alarm, self._heard = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._heard, selectors.EVENT_READ)
        self._keeper = threading.Thread(target=self._keep, name=f"keeper-{name}", daemon=True)
        self._keeper.start()

    @property
    def workers(self) -> list[Worker]:
        """The workers that can be given calls."""
        with self._changed:
            ready = [place.worker for place in self._places if place.ready is not None]
            return [worker for worker in ready if worker is not None and not worker.dead]

    def open(self, indices: Sequence[int], load: Load) -> Ready:
        """Start the workers that are missing in these places, side by side, and wait until all have loaded.

        Later workers there will load the same; the cores are those of the place. Returns what the first one said.
        Raises what a worker met that could not load.
        """
        places = [self._places[index] for index in indices]
        with self._changed:
            for place in places:
                options = replace(load.options, cores=place.part.cores)
                place.load = load.model_copy(update={"options": options})
                if place.worker is None:
                    place.due = time.monotonic()
            self._alarm.send(b"!")
            while not all(place.ready for place in places):
                self._require_open()
                for place in places:
                    if place.error is not None:
                        raise place.error
                self._changed.wait()
            assert places[0].ready is not None
            return places[0].ready

    def keep(self) -> None:
        """From now on replace the workers that end. Raises what has happened to one since it had loaded."""
        with self._changed:
            for place in self._places:
                if place.error is not None:
                    raise place.error
            self._keeping = True

    @contextlib.contextmanager
    def lane(self, worker: Worker | None = None) -> Iterator[tuple[Worker, Lane]]:
        """Lend a lane of `worker`, or of the one that has least to do; waits until one is free.

        Raises WorkerDied if `worker` has ended, WorkersFailed if there is none and none can be started.
        """
        with self._changed:
            while True:
                self._require_open()
                if worker is not None and worker.dead:
                    raise WorkerDied(f"{worker.name} (process {worker.pid}) has ended, and its features with it.")
                found = self._free(worker)
                if found is not None:
                    lane = found.free.pop()
                    break
                self._changed.wait()
        try:
            yield found, lane
        finally:
            with self._changed:
                if found.dead:
                    lane.close()
                else:
                    found.free.append(lane)
                self._changed.notify_all()

    def close(self) -> None:
        """End all workers, whatever they do."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._alarm.send(b"!")
            self._changed.notify_all()
        if threading.current_thread() is not self._keeper:
            self._keeper.join()

    def _require_open(self) -> None:
        if self._closed:
            raise EngineError(f"The workers of {self.name} have been closed.")

    def _free(self, wanted: Worker | None) -> Worker | None:
        """The worker that should take the next call, None if it has to wait. Raises WorkersFailed."""
        if wanted is not None:
            return wanted if wanted.free else None
        if all(place.ready is None and place.failures >= LOAD_ATTEMPTS for place in self._places):
            raise WorkersFailed(
                f"No worker of {self.name} is left, and {LOAD_ATTEMPTS} or more could not be started in a row. "
                f"The last error: {self._places[0].error}"
            )
        free = [worker for worker in self.workers if worker.free]
        return min(free, key=lambda worker: worker.load) if free else None

    def _keep(self) -> None:
        """Start workers when they are due, pass on what they print, notice when they have loaded or ended."""
        try:
            while not self._closed:
                dues = [place.due for place in self._places if place.due is not None]
                self._wait(max(0.0, min(dues) - time.monotonic()) if dues else None)
                for place in self._places:
                    if not self._closed and place.due is not None and time.monotonic() >= place.due:
                        self._act(place)
        except Exception:
            logger.exception("The workers of %s are no longer kept: this is a bug.", self.name)
        finally:
            with self._changed:
                self._closed = True
                self._changed.notify_all()  # without the keeper a call could wait for ever
            for place in self._places:
                if place.worker is not None:
                    self._bury(place, place.worker)
            self._selector.close()
            self._alarm.close()
            self._heard.close()

    def _wait(self, seconds: float | None) -> None:
        for key, _ in self._selector.select(seconds):
            place: _Place | None = key.data
            if place is None:
                self._heard.recv(4096)
            elif place.worker is not None and key.fileobj is place.worker.output:
                self._pass_on(place, place.worker)
            elif place.worker is not None and key.fileobj is place.worker.control:
                self._listen(place, place.worker)

    def _act(self, place: _Place) -> None:
        """Start a worker, or give up one that takes too long to load."""
        if place.worker is not None:
            place.worker.kill()
            error = WorkerStuck(f"{place.name} did not load within {self._load_timeout_seconds:g} s and was killed.")
            self._replace(place, place.worker, error)
            return
        assert place.load is not None
        try:
            worker = Worker(place.name, place.part, place.load, self._lanes)
        except OSError as error:
            self._delay(place, EngineError(f"{place.name} cannot be started: {error}"))
            return
        self._selector.register(worker.control, selectors.EVENT_READ, place)
        self._selector.register(worker.output, selectors.EVENT_READ, place)
        with self._changed:
            place.worker, place.due = worker, time.monotonic() + self._load_timeout_seconds

    def _listen(self, place: _Place, worker: Worker) -> None:
        """The worker has loaded, could not, or has ended."""
        if place.ready is not None:  # it never speaks again
            death = worker.death()
            logger.error("%s", death)
            self.replaced += self._keeping
            self._replace(place, worker, None if self._keeping else death)
            return
        said = worker.loaded()
        if not isinstance(said, Ready):
            self._replace(place, worker, said or worker.death())
            return
        cpus = ", ".join(map(str, place.part.cpus))
        logger.info("%s is ready: process %d on CPU(s) %s.", place.name, worker.pid, cpus)
        with self._changed:
            place.ready, place.since, place.due = said, time.monotonic(), None
            place.failures, place.error = 0, None
            self._changed.notify_all()

    def _replace(self, place: _Place, worker: Worker, error: NeurotrailsError | None) -> None:
        """Bury a worker that has ended and plan the next one; `error`: why it could not load, None if it had."""
        if place.ready is not None and time.monotonic() - place.since > HEALTHY_SECONDS:
            place.setbacks = 0
        self._bury(place, worker)
        self._delay(place, error)

    def _delay(self, place: _Place, error: NeurotrailsError | None) -> None:
        seconds = min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2 ** (place.setbacks - 1)) if place.setbacks else 0.0
        if error is not None and self._keeping:
            logger.error("%s", error)
        with self._changed:
            place.setbacks += 1
            place.failures += error is not None
            place.error = error
            place.due = time.monotonic() + seconds if self._keeping else None
            self._changed.notify_all()

    def _bury(self, place: _Place, worker: Worker) -> None:
        """Make sure that the process has ended, and close what belongs to it."""
        worker.kill()
        self._pass_on(place, worker)
        for file in (worker.control, worker.output):
            with contextlib.suppress(KeyError):  # what it printed may have ended before
                self._selector.unregister(file)
        with self._changed:
            worker.close()
            place.worker = place.ready = None
            self._changed.notify_all()

    def _pass_on(self, place: _Place, worker: Worker) -> None:
        """Log what the worker has printed, line by line."""
        while True:
            try:
                part = os.read(worker.output.fileno(), 65536)
            except BlockingIOError:
                return
            *lines, place.line = (place.line + part).split(b"\n") if part else (place.line, b"")
            for line in filter(None, lines):
                logger.warning("%s: %s", place.name, line.decode(errors="replace"))
            if not part:
                with contextlib.suppress(KeyError):
                    self._selector.unregister(worker.output)
                return
