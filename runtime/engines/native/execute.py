"""Runs plans: memory, the arguments of the kernels, and a team of native threads that walks them without the GIL."""

import ctypes
import math
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.engines.native.compile import Library
from runtime.engines.native.emitter import LINE
from runtime.engines.native.kernels.alone import ALONE, COPY_BYTES, PROGRAM_BYTES
from runtime.engines.native.kernels.chain import CHAIN
from runtime.engines.native.kernels.library import KERNELS
from runtime.engines.native.kernels.schedule import STEP_BYTES, THREADS, WAVE_BYTES, team_bytes
from runtime.engines.native.layout import Layout
from runtime.engines.native.plan import Buffer, Output, Plan, Scratch, Step
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
    """A plan bound to memory: the arguments of its kernels, and where its inputs and outputs lie."""

    def __init__(self, plan: Plan, library: Library, memory: "Memory") -> None:
        self.plan, self._memory = plan, memory
        self._constants: list[NDArray[Any]] = []
        waves = np.zeros((len(plan.waves), WAVE_BYTES // 8), np.int64)
        for row, wave in zip(waves, plan.waves, strict=True):
            steps = self._bind(wave, library)
            row[:] = len(steps), steps.ctypes.data, steps[-1, 3]
        self._constants.append(waves)
        self.waves = (len(waves), waves.ctypes.data)
        self._header = np.array([*self.waves, 0], np.int64)
        self.address = self._header.ctypes.data

    def _bind(self, wave: list[Step], library: Library) -> NDArray[np.int64]:
        """Steps of a wave with the addresses of kernels and arguments, and the range of their items."""
        table = np.zeros((len(wave), STEP_BYTES // 8), np.int64)
        first = 0
        for row, step in zip(table, wave, strict=True):
            kernel, arguments = self._call(step, library)
            items = step.items
            if step.gather is not None:
                items = step.gather.items
                both = np.array([*self._call(step.gather, library), kernel, arguments, step.items // items], np.int64)
                self._constants.append(both)
                kernel, arguments = library.addresses[CHAIN.name], int(both.ctypes.data)
            row[:] = kernel, arguments, first, first + items
            first += items
        self._constants.append(table)
        return table

    def _call(self, step: Step, library: Library) -> tuple[int, int]:
        """Address of a kernel, and of its arguments."""
        fields = KERNELS[step.kernel].fields
        arguments = np.array([self._resolve(step.fields[name]) for name in fields], dtype=np.int64)
        self._constants.append(arguments)
        return library.addresses[step.kernel], int(arguments.ctypes.data)

    def _resolve(self, value: Any) -> int:
        if isinstance(value, Buffer):
            return self._memory.arena_address + value.offset
        if isinstance(value, np.ndarray):
            constant = np.ascontiguousarray(value)
            self._constants.append(constant)
            return int(constant.ctypes.data)
        if isinstance(value, Scratch):
            return self._memory.scratch_address + value.offset
        return int(value)

    def place(self, buffer: Buffer) -> Bytes:
        """Memory of a buffer, [1, bytes]."""
        return self._memory.arena[buffer.offset : buffer.offset + buffer.nbytes][None]

    def step_addresses(self) -> NDArray[np.int64]:
        """Programs of one wave each, for measuring: int64 [waves, 3]."""
        count, start = self.waves
        ones = np.ones(count, np.int64)
        return np.stack([ones, start + WAVE_BYTES * np.arange(count), 0 * ones], axis=1)


class Memory:
    """What programs compute in: one arena for the buffers of a plan, and scratch memory for each thread."""

    def __init__(self, plans: Iterable[Plan], threads: int) -> None:
        plans = list(plans)
        self.arena = aligned(max((plan.arena_bytes for plan in plans), default=0) + SLACK)
        self._scratch = aligned(max((plan.scratch_bytes for plan in plans), default=0) * threads + SLACK)
        self.arena_address = int(self.arena.ctypes.data)
        self.scratch_address = int(self._scratch.ctypes.data)


class Executor:
    """The programs of one engine, and the team that runs them, one call at a time.

    `plans` holds, by key, a plan for all threads together and, if rows are to be computed side by side, one for a
    single thread; both for the same number of rows, the unit of the key.
    """

    def __init__(self, library: Library, plans: Mapping[Any, tuple[Plan, Plan | None]], threads: int) -> None:
        self.threads = threads
        together = Memory((plan for plan, _ in plans.values()), threads)
        self.programs = {key: Program(plan, library, together) for key, (plan, _) in plans.items()}
        single = {key: alone for key, (_, alone) in plans.items() if alone is not None}
        memories = [Memory(single.values(), 1) for _ in range(threads if single else 0)]
        self._crowds = {
            key: Crowd([Program(plan, library, memory) for memory in memories], library) for key, plan in single.items()
        }
        self._team = Team(library, threads)
        self._lock = threading.Lock()

    def run(self, key: Any, tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """Run a program on any number of rows that is a multiple of its unit."""
        program = self.programs[key]
        unit = program.plan.rows
        units = len(next(iter(tensors.values()))) // unit
        crowd = self._crowds.get(key)
        side_by_side = units // self.threads * self.threads if crowd is not None and units > 1 else 0
        results = []
        with self._lock:
            if crowd is not None and side_by_side:
                crowd.prepare(side_by_side)
                write_inputs(crowd.plan, crowd.place, _rows(tensors, 0, side_by_side * unit))
                self._team.run(crowd.address)
                results.append(read_outputs(crowd.plan, crowd.place))
            for index in range(side_by_side, units):
                write_inputs(program.plan, program.place, _rows(tensors, index * unit, unit))
                self._team.run(program.address)
                results.append(read_outputs(program.plan, program.place))
        if len(results) == 1:
            return results[0]
        return {name: np.concatenate([result[name] for result in results]) for name in results[0]}

    def measure(self, key: Any, rounds: int) -> list[float]:
        """Seconds of each wave of a program on what its inputs hold, the least of several rounds."""
        program = self.programs[key]
        best = [math.inf] * len(program.plan.waves)
        with self._lock:
            waves = program.step_addresses()
            for _ in range(rounds):
                for index, wave in enumerate(waves):
                    started = time.perf_counter()
                    self._team.run(wave.ctypes.data)
                    best[index] = min(best[index], time.perf_counter() - started)
        return best

    def close(self) -> None:
        """End the threads."""
        with self._lock:
            self._team.close()


class Crowd:
    """A program for one thread, as often as there are threads: each computes other rows of a batch."""

    def __init__(self, programs: list[Program], library: Library) -> None:
        self._programs = programs
        self.plan = programs[0].plan
        self._inputs: list[Buffer] = [
            one[0] for kind in (self.plan.sources, self.plan.integers, self.plan.masks) for one in kind.values()
        ]
        self._outputs = [output.buffer for output in self.plan.outputs.values()]
        self._batches: dict[Buffer, Bytes] = {}
        self._units = 0
        count = len(programs)
        self._copies = np.zeros((count, len(self._inputs) + len(self._outputs), COPY_BYTES // 8), np.int64)
        self._table = np.zeros((count, PROGRAM_BYTES // 8), np.int64)
        for row, copies, program in zip(self._table, self._copies, programs, strict=True):
            outputs = copies[len(self._inputs) :]
            row[:] = *program.waves, len(self._inputs), copies.ctypes.data, len(self._outputs), outputs.ctypes.data
        self._arguments = np.array([self._table.ctypes.data], np.int64)
        self._step = np.array([library.addresses[ALONE.name], self._arguments.ctypes.data, 0, 0], np.int64)
        self._wave = np.array([1, self._step.ctypes.data, 0], np.int64)
        self._header = np.array([1, self._wave.ctypes.data, 0], np.int64)
        self.address = self._header.ctypes.data

    def prepare(self, units: int) -> None:
        """Make room for so many units of rows; memory only grows."""
        if units > self._units:
            buffers = [*self._inputs, *self._outputs]
            self._batches = {buffer: aligned(units * buffer.nbytes) for buffer in buffers}
            for copies, program in zip(self._copies, self._programs, strict=True):
                for row, buffer in zip(copies, buffers, strict=True):
                    row[:] = program.place(buffer).ctypes.data, self._batches[buffer].ctypes.data, buffer.nbytes
            self._units = units
        self._step[3] = self._wave[2] = units

    def place(self, buffer: Buffer) -> Bytes:
        """Memory of a buffer of all units of the present batch, [units, bytes]."""
        units = int(self._wave[2])
        return self._batches[buffer][: units * buffer.nbytes].reshape(units, buffer.nbytes)


Place = Callable[[Buffer], Bytes]
"""Where a buffer lies, [units, bytes]."""


def write_inputs(plan: Plan, place: Place, tensors: Mapping[str, NDArray[Any]]) -> None:
    """Copy inputs to where a plan reads them. Raises EngineError for a token id outside the table."""
    for name, (buffer, layout) in plan.sources.items():
        array, view = tensors[name], _lanes(place(buffer), layout)
        if array.ndim == 2:  # [rows, channels]; lanes are rows
            view[:, :, : len(array) // len(view)] = array.reshape(len(view), -1, array.shape[1]).transpose(0, 2, 1)
        elif array.ndim == 3:  # [rows, tokens, channels]
            view[:, :, : array.shape[1]] = array.transpose(0, 2, 1)
        else:
            pixels = array.reshape(*array.shape[:2], -1)
            view[:, :, : pixels.shape[2]] = pixels
    for name, (buffer, layout, vocabulary) in plan.integers.items():
        ids = tensors[name]
        if ids.size and (ids.min() < 0 or ids.max() >= vocabulary):
            raise EngineError(f"{name} holds {ids.min()} to {ids.max()}; token ids go from 0 to {vocabulary - 1}.")
        view = _lanes(place(buffer), layout).view(np.int32)
        view[...] = 0  # lanes behind the last token are looked up, too
        view[:, 0, : ids.shape[1]] = ids
    for name, (buffer, layout) in plan.masks.items():
        view = _lanes(place(buffer), layout)
        view[...] = 0
        view[:, 0, : tensors[name].shape[1]] = tensors[name]


def read_outputs(plan: Plan, place: Place) -> dict[str, NDArray[np.float32]]:
    """Copy the outputs of a plan out, with the axes of the ONNX graph."""
    return {name: _read(_lanes(place(output.buffer), output.layout), output) for name, output in plan.outputs.items()}


def _read(view: NDArray[np.float32], output: Output) -> NDArray[np.float32]:
    lanes = view[:, :, : output.lanes]
    if output.axes != "NCHW":  # channels come last
        lanes = lanes.transpose(0, 2, 1)
    return np.array(lanes, order="C").reshape(-1, *output.shape[1:])


def _lanes(memory: Bytes, layout: Layout) -> NDArray[np.float32]:
    """[units x images, channels, lanes] of a tensor in planes."""
    return memory.view(np.float32).reshape(len(memory) * layout.images, layout.channels, -1)


def _rows(tensors: Mapping[str, NDArray[Any]], start: int, count: int) -> dict[str, NDArray[Any]]:
    return {name: tensor[start : start + count] for name, tensor in tensors.items()}
