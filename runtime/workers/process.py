"""The parent's side of one worker process: start it, call it, end it."""

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from runtime import errors
from runtime.errors import ArtifactError, EngineError, NeurotrailsError, WorkerDied, WorkerStuck
from runtime.workers.segment import Segment
from runtime.workers.slices import Slice
from runtime.workers.wire import Call, Failure, Lane, LaneDescriptors, Load, Loaded, Ready, Reply, receive, send

START = (
    "import sys; sys.path[:] = {path!r}; "
    "from runtime.workers.bond import bind; bind({parent}, {cpus}); "
    "from runtime.workers.child import serve; serve({control})"
)
END_SECONDS = 10.0
"""A process that has closed its channels ends within this time, or is killed."""
SPEECH_SECONDS = 60.0
"""Longest time from the first to the last byte of what a worker says once it has loaded."""


class Worker:
    """A worker process. The kernel kills it when the thread that made this object ends."""

    def __init__(self, name: str, part: Slice, load: Load, lanes: int) -> None:
        """Start a process and tell it what to load, over that many lanes; `name` is for messages."""
        self.name = name
        self.dead = False
        """Set once nothing more is to be expected of it."""
        self._made = itertools.count(1)
        self._held = 0
        self._released: deque[int] = deque()
        self._lock = threading.Lock()
        with contextlib.ExitStack() as undo:
            self.control, control = _pair(undo)
            channels = [_pair(undo) for _ in range(lanes)]
            self._lanes = [Lane(ours, _segment(undo), _segment(undo)) for ours, _ in channels]
            descriptors = tuple(
                LaneDescriptors(channel=theirs.fileno(), inbox=lane.inbox.descriptor, outbox=lane.outbox.descriptor)
                for lane, (_, theirs) in zip(self._lanes, channels, strict=True)
            )
            numbers = (number for lane in descriptors for number in (lane.channel, lane.inbox, lane.outbox))
            source = START.format(path=sys.path, parent=os.getpid(), cpus=part.cpus, control=control.fileno())
            order = undo.enter_context(os.fdopen(os.memfd_create("neurotrails-load", os.MFD_CLOEXEC), "r+b"))
            order.write(load.model_copy(update={"lanes": descriptors}).model_dump_json().encode())
            order.seek(0)
            self._process = subprocess.Popen(  # never a fork of this process: it has threads
                [sys.executable, "-c", source, name],  # the name is for whoever looks at a list of processes
                stdin=order,  # not through a channel, where a long message waits until the process reads it
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(control.fileno(), load.constants, *numbers),
                start_new_session=True,  # Ctrl-C in a terminal is for the parent
            )
            undo.pop_all()
        order.close()
        for theirs in (control, *(theirs for _, theirs in channels)):
            theirs.close()
        self.free = list(self._lanes)
        """Lanes that carry no call."""
        assert self._process.stdout is not None
        self.output = self._process.stdout
        """What it prints."""
        os.set_blocking(self.output.fileno(), False)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def load(self) -> int:
        """How much it has to do: calls that it computes, and features whose heads are still to come."""
        return len(self._lanes) - len(self.free) + self._held - len(self._released)

    def loaded(self) -> Ready | NeurotrailsError | None:
        """Read what it says once it has loaded, or why it could not; None: it has ended. Waits for it."""
        try:
            outcome = receive(self.control, Loaded, time.monotonic() + SPEECH_SECONDS).outcome
        except (OSError, EOFError, ValueError):
            return None
        return _as_error(outcome) if isinstance(outcome, Failure) else outcome

    def hold(self) -> int:
        """Number for the features that a call of the trunk is going to make."""
        with self._lock:
            self._held += 1
        return next(self._made)

    def release(self, number: int) -> None:
        """Say that features are no longer needed; the worker hears of it with the next call. Takes no lock."""
        self._released.append(number)

    def ask(
        self, lane: Lane, call: Call, inputs: Mapping[str, NDArray[np.generic]], timeout_seconds: float
    ) -> tuple[Reply, list[NDArray[np.generic]]]:
        """Make a call and wait for the answer, at most `timeout_seconds`; then the process is killed.

        Raises WorkerStuck, WorkerDied, or what the engine raised. The tensors of the answer are copies.
        """
        deadline = time.monotonic() + timeout_seconds
        call = call.model_copy(update={"tensors": lane.inbox.write(inputs), "released": self._take_released()})
        try:
            lane.channel.settimeout(timeout_seconds)
            send(lane.channel, call)
            reply = receive(lane.channel, Reply, deadline)
        except TimeoutError as error:
            self.kill()
            raise WorkerStuck(
                f"{self.name} (process {self.pid}) did not answer within {timeout_seconds:g} s and was killed; "
                "another takes its place. Send less at once, or allow calls more time."
            ) from error
        except (OSError, EOFError) as error:
            raise self.death() from error
        except BaseException:
            self.kill()  # an answer that nobody has read would be taken for that to the next call
            raise
        if reply.failure is not None:
            raise _as_error(reply.failure)
        return reply, [tensor.copy() for tensor in lane.outbox.read(reply.tensors).values()]

    def kill(self) -> None:
        """End the process at once, whatever it does, and wait until it is gone."""
        self.dead = True
        self._process.kill()
        self._process.wait()

    def death(self) -> WorkerDied:
        """Wait until the process has ended, as its channels say; returns the error that tells how."""
        self.dead = True
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
        status = self._process.returncode
        how = f"by signal {signal.Signals(-status).name}" if status < 0 else f"with exit status {status}"
        return WorkerDied(f"{self.name} (process {self.pid}) ended {how}; another takes its place. Try again.")

    def close(self) -> None:
        """End the process and close what the parent has open, but for lanes that still carry a call."""
        self.kill()
        self.control.close()
        self.output.close()
        for lane in self.free:
            lane.close()
        self.free = []

    def _take_released(self) -> tuple[int, ...]:
        with self._lock:
            released = tuple(self._released.popleft() for _ in range(len(self._released)))
            self._held -= len(released)
        return released


def _as_error(failure: Failure) -> NeurotrailsError:
    """The error that a worker has met, of the same class where that takes nothing but a message."""
    kind: type[NeurotrailsError] = getattr(errors, failure.kind, EngineError)
    return kind(failure.message) if issubclass(kind, (ArtifactError, EngineError)) else EngineError(failure.message)


def _pair(undo: contextlib.ExitStack) -> tuple[socket.socket, socket.socket]:
    """Two connected sockets, which `undo` closes."""
    ours, theirs = socket.socketpair()
    return undo.enter_context(ours), undo.enter_context(theirs)


def _segment(undo: contextlib.ExitStack) -> Segment:
    """An empty segment, which `undo` closes."""
    segment = Segment.create()
    undo.callback(segment.close)
    return segment
