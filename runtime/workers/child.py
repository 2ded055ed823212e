"""The worker's side: loads an engine, then answers calls on every lane until the parent closes the control channel."""

import ctypes
import gc
import os
import socket
import sys
import threading
import traceback
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.artifact import Artifact
from runtime.engines import load_engine
from runtime.engines.base import Engine, Features
from runtime.engines.constants import SharedConstants, sharing
from runtime.errors import ArtifactError, NeurotrailsError
from runtime.workers.segment import Segment
from runtime.workers.wire import Call, Failure, Lane, Load, Loaded, Ready, Reply, receive, send


def serve(control: int) -> None:
    """Load what standard input says, and serve; `control` is the open socket to the parent.

    Never returns: threads of engines may never end.
    """
    channel = socket.socket(fileno=control)
    try:
        try:
            load = Load.model_validate_json(sys.stdin.buffer.read())
            engine, ready = _load(load)
            _give_back_memory()
        except Exception as error:  # engines raise errors of many kinds; the parent tells the user
            send(channel, Loaded(outcome=_failure(error)))
            os._exit(1)
        calls = Calls(engine)
        for index, numbers in enumerate(load.lanes):
            lane = Lane(socket.socket(fileno=numbers.channel), Segment(numbers.inbox), Segment(numbers.outbox))
            threading.Thread(target=calls.serve, args=(lane,), name=f"lane-{index}", daemon=True).start()
        send(channel, Loaded(outcome=ready))
        channel.recv(1)
    except (OSError, EOFError):
        pass  # the parent is gone
    os._exit(0)


def _load(load: Load) -> tuple[Engine, Ready]:
    artifact = Artifact.open(load.folder)
    if artifact.sha256 != load.sha256:
        raise ArtifactError(f"{load.folder} has changed since it was opened. Artifacts are immutable: restore it.")
    constants = SharedConstants(load.constants, load.index)
    with sharing(constants):
        engine = load_engine(artifact, load.engine, load.options)
    ready = Ready(
        info=engine.info(),
        one_program=engine.one_program,
        sizes=engine.sizes,
        costs=engine._costs,
        index=constants.index,
    )
    return engine, ready


def _give_back_memory() -> None:
    """Loading leaves hundreds of MiB of freed graphs and weights in the allocator, which hands them back when asked."""
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # glibc alone has it
        trim(0)


@dataclass
class _Kept:
    """Features of one call of the trunk, and the rows of them that were taken last."""

    features: Features
    rows: tuple[int, ...] | None = None
    taken: Features | None = None

    def take(self, rows: tuple[int, ...] | None) -> Features:
        """The features of `rows`; the heads of a prediction ask for the same rows again and again."""
        if rows is None:
            return self.features
        if self.taken is None or self.rows != rows:
            self.rows, self.taken = rows, self.features.take(np.array(rows, np.intp))
        return self.taken


class Calls:
    """Answers calls with an engine and keeps the features that heads will read. Thread-safe."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._kept: dict[int, _Kept] = {}

    def serve(self, lane: Lane) -> None:
        """Answer the calls of a lane, one after another, for ever."""
        while True:
            try:
                call = receive(lane.channel, Call)
                send(lane.channel, self._answer(call, lane))
            except (OSError, EOFError):
                os._exit(0)  # the parent has given this worker up

    def _answer(self, call: Call, lane: Lane) -> Reply:
        for number in call.released:
            self._kept.pop(number, None)
        inputs = lane.inbox.read(call.tensors)
        try:
            match call.do:
                case "trunk":
                    features = self._engine.trunk(inputs)
                    own = {name: _own(tensor, lane.inbox) for name, tensor in features.tensors.items()}
                    self._kept[call.features] = _Kept(Features(own))
                    return Reply(rows=features.rows)
                case "head":
                    features = self._kept[call.features].take(call.rows)
                    logits = [self._engine.head(call.index, features)]
                case "logits":
                    logits = self._engine.logits(inputs, call.heads)
            return Reply(tensors=lane.outbox.write({str(index): tensor for index, tensor in enumerate(logits)}))
        except Exception as error:  # whatever an engine raises belongs to this call alone
            return Reply(failure=_failure(error))


def _own(tensor: NDArray[np.generic], inbox: Segment) -> NDArray[np.generic]:
    """Features that are inputs passed on would change with the next call: they are copied."""
    return tensor.copy() if inbox.holds(tensor) else tensor


def _failure(error: Exception) -> Failure:
    if isinstance(error, NeurotrailsError):
        return Failure(kind=type(error).__name__, message=str(error))
    traceback.print_exception(error)  # to the parent's log
    return Failure(kind="EngineError", message=f"{type(error).__name__}: {error}")
