"""Runs plans: memory, the arguments of the kernels, and a team of native threads that walks them without the GIL."""

import ctypes
import threading
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.engines.native.compile import Library
from runtime.engines.native.emitter import LINE
from runtime.engines.native.graph import Ref
from runtime.engines.native.kernels.library import KERNELS
from runtime.engines.native.kernels.schedule import STEP_BYTES, THREADS, team_bytes
from runtime.engines.native.layout import Layout
from runtime.engines.native.plan import SCRATCH, Buffer, Plan
from runtime.errors import EngineError

Bytes = NDArray[np.uint8]
SLACK = 4096
"""Bytes behind the last buffer: gathered tiles are read in whole vectors."""


def aligned(nbytes: int) -> Bytes:
    """Zeroed memory that begins at a cache line."""
    memory = np.zeros(nbytes + LINE, np.uint8)
    start = -memory.ctypes.data % LINE
    return memory[start : start + nbytes]


class Team:
    """The calling thread and `threads` - 1 native ones; `run` gives them a program. Not for concurrent calls."""

    def __init__(self, library: Library, threads: int) -> None:
        self.threads = threads
        self._memory = aligned(team_bytes(threads))
        self._memory[THREADS : THREADS + 8].view(np.int64)[0] = threads
        prototype = ctypes.CFUNCTYPE(None, ctypes.c_uint64, ctypes.c_uint64)
        self._run = prototype(library.addresses["run"])  # a call through ctypes releases the GIL
        handles = _start(library.addresses["work"], self._memory.ctypes.data, threads - 1)
        self._close = weakref.finalize(self, _stop, self._run, self._memory, handles, library)

    def run(self, program: int) -> None:
        """Walk the program at this address."""
        self._run(self._memory.ctypes.data, program)

    def close(self) -> None:
        """End the threads. The team must not be used afterwards."""
        self._close()


def _start(work: int, team: int, count: int) -> list[ctypes.c_ulong]:
    create = ctypes.CDLL(None).pthread_create
    create.argtypes = [ctypes.c_void_p] * 4
    handles = []
    for _ in range(count):
        handle = ctypes.c_ulong()
        if error := create(ctypes.addressof(handle), None, work, team):
            raise EngineError(f"A compute thread cannot be started (error {error}). Lower the number of cores.")
        handles.append(handle)
    return handles


def _stop(run: Any, memory: Bytes, handles: list[ctypes.c_ulong], library: Library) -> None:
    """Let the threads end and wait for them; `library` is held until then, because they execute it."""
    del library
    if handles:
        run(memory.ctypes.data, 0)
    join = ctypes.CDLL(None).pthread_join
    join.argtypes = [ctypes.c_ulong, ctypes.c_void_p]
    for handle in handles:
        join(handle, None)


class Program:
    """A plan bound to memory. All programs of an engine share one arena, because calls are serialized."""

    def __init__(self, plan: Plan, library: Library, arena: Bytes, scratch: Bytes) -> None:
        self.plan = plan
        self._arena, self._scratch = arena, scratch
        self._constants: list[NDArray[Any]] = []
        steps = aligned(max(1, len(plan.steps)) * STEP_BYTES).view(np.int64).reshape(-1, STEP_BYTES // 8)
        for row, step in zip(steps, plan.steps, strict=False):
            arguments = np.array(
                [self._resolve(step.fields[name]) for name in KERNELS[step.kernel].fields], dtype=np.int64
            )
            self._constants.append(arguments)
            row[:5] = library.addresses[step.kernel], arguments.ctypes.data, arguments.nbytes, step.items, 1
        self._constants.append(steps)
        self._header = np.array([len(plan.steps), steps.ctypes.data], np.int64)
        self.address = self._header.ctypes.data

    def _resolve(self, value: Any) -> int:
        if isinstance(value, Buffer):
            return int(self._arena.ctypes.data) + value.offset
        if isinstance(value, np.ndarray):
            constant = np.ascontiguousarray(value)
            self._constants.append(constant)
            return int(constant.ctypes.data)
        return int(self._scratch.ctypes.data) if value is SCRATCH else int(value)

    def write(self, tensors: dict[str, NDArray[Any]]) -> None:
        """Copy the inputs to where the plan reads them. Raises EngineError for a token id outside the table."""
        for name, (buffer, layout) in self.plan.sources.items():
            array = tensors[name]
            view = self._view(buffer, layout)
            if array.ndim == 2:  # [rows, channels]; lanes are rows
                view[0, :, : len(array)] = array.T
            elif array.ndim == 3:  # [rows, tokens, channels]
                view[:, :, : array.shape[1]] = array.transpose(0, 2, 1)
            else:
                pixels = array.reshape(*array.shape[:2], -1)
                view[:, :, : pixels.shape[2]] = pixels
        for name, (buffer, layout, vocabulary) in self.plan.integers.items():
            ids = tensors[name]
            if ids.size and (ids.min() < 0 or ids.max() >= vocabulary):
                raise EngineError(f"{name} holds {ids.min()} to {ids.max()}; token ids go from 0 to {vocabulary - 1}.")
            view = self._view(buffer, layout).view(np.int32)
            view[...] = 0  # lanes behind the last token are looked up, too
            view[:, 0, : ids.shape[1]] = ids
        for name, (buffer, layout) in self.plan.masks.items():
            view = self._view(buffer, layout)
            view[...] = 0
            view[:, 0, : tensors[name].shape[1]] = tensors[name]

    def read(self) -> dict[str, NDArray[np.float32]]:
        """Copy the outputs out, with the axes of the ONNX graph."""
        return {name: self._read(*output) for name, output in self.plan.outputs.items()}

    def _read(self, buffer: Buffer, layout: Layout, ref: Ref) -> NDArray[np.float32]:
        lanes = self._view(buffer, layout)[:, :, : ref.tensor.space.lanes]
        if ref.axes in ("NC", "NC11"):
            lanes = lanes[0].T
        elif ref.axes == "NTC":
            lanes = lanes.transpose(0, 2, 1)
        return np.array(lanes, order="C").reshape(ref.shape)

    def _view(self, buffer: Buffer, layout: Layout) -> NDArray[np.float32]:
        """[images, channels, lanes] of a tensor in planes."""
        content = self._arena[buffer.offset : buffer.offset + layout.nbytes].view(np.float32)
        return content.reshape(layout.images, layout.channels, -1)


class Executor:
    """Programs of one engine, and the team that runs them one at a time."""

    def __init__(self, library: Library, plans: dict[Any, Plan], threads: int) -> None:
        arena = aligned(max(plan.arena_bytes for plan in plans.values()) + SLACK)
        scratch = aligned(max(1, *(plan.scratch_bytes for plan in plans.values())) * threads)
        self.programs = {key: Program(plan, library, arena, scratch) for key, plan in plans.items()}
        self._team = Team(library, threads)
        self._lock = threading.Lock()

    def run(self, key: Any, tensors: dict[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """Run the program `key` on inputs of its shape."""
        program = self.programs[key]
        with self._lock:
            program.write(tensors)
            self._team.run(program.address)
            return program.read()

    def close(self) -> None:
        """End the threads."""
        with self._lock:
            self._team.close()
