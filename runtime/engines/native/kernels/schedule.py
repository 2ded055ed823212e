"""What walks a program: threads take items of a wave and meet at a barrier before the next.

A program is int64 (number of waves, address of the waves). A wave is WAVE_BYTES: (number of steps, address of the
steps, items of all of them). Its steps, such as the same layer of several heads, run side by side; a step is
STEP_BYTES: (kernel, arguments, first item, end of its items). Every thread first takes the items of its own share of a
wave, always the same neighbouring ones, so that what it has written in one wave is in its cache in the next; then it
helps others.

A team is `team_bytes`, one cache line per kind of word. Waiting spins briefly and then sleeps in the kernel (futex), so
idle threads burn no core and more threads than cores still make progress.
"""

import platform
from typing import Any

from llvmlite import ir

from runtime.engines.native.emitter import I32, I64, LINE, Emitter, Int

WAVE_BYTES, STEP_BYTES = 24, 32
KERNEL = ir.FunctionType(ir.VoidType(), [I64] * 3)
COUNTERS = 256
"""Offset in a team of the items taken from the share of each thread in the current wave, one cache line each."""
GENERATION, ARRIVED, SLEEPERS, JOB, JOB_SLEEPERS = 0, 64, 68, 128, 132
"""Offsets of 32-bit words in a team."""
JOINED, THREADS, PROGRAM = 136, 192, 200
"""Offsets of 64-bit words in a team; program 0 means: end."""
SPINS = 2000
"""Times that a waiting thread looks again before it sleeps: some tens of microseconds."""
FUTEX = {"x86_64": 202, "aarch64": 98}
"""Number of the system call."""
WAIT, WAKE = 128, 129
"""Operations of the system call, for threads of one process."""


def team_bytes(threads: int) -> int:
    """Size of a team."""
    return COUNTERS + LINE * threads


def emit_schedule(module: Any) -> None:
    """Add `run(team, program)`, for the calling thread, and `work(team)`, the body of the other threads."""
    _emit_wait(module)
    _emit_signal(module)
    _emit_barrier(module)
    _emit_walk(module)
    _emit_run(module)
    _emit_work(module)


def _function(module: Any, name: str, parameters: int, *, internal: bool = True) -> tuple[Emitter, list[Int]]:
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * parameters), name)
    if internal:
        function.linkage = "internal"
    k = Emitter(function)
    return k, [Int(k, argument) for argument in function.args]


def _call(k: Emitter, name: str, *arguments: Int | int) -> None:
    k.builder.call(k.function.module.globals[name], [k.integer(argument).value for argument in arguments])


def _typed(k: Emitter, address: Int, bits: int) -> Any:
    """Pointer with the type that llvmlite wants to see for atomic operations."""
    return k.builder.inttoptr(address.value, ir.IntType(bits).as_pointer())


def _read(k: Emitter, address: Int, bits: int = 32) -> Int:
    value = k.builder.load_atomic(_typed(k, address, bits), "seq_cst", bits // 8)
    return Int(k, value if bits == 64 else k.builder.sext(value, I64))


def _write(k: Emitter, address: Int, value: Int | int, bits: int = 32) -> None:
    word = k.integer(value).value
    word = word if bits == 64 else k.builder.trunc(word, I32)
    k.builder.store_atomic(word, _typed(k, address, bits), "seq_cst", bits // 8)


def _add(k: Emitter, address: Int, value: int, bits: int = 32) -> Int:
    """Add atomically; return the value before."""
    kind = ir.IntType(bits)
    before = k.builder.atomic_rmw("add", _typed(k, address, bits), ir.Constant(kind, value), "seq_cst")
    return Int(k, before if bits == 64 else k.builder.sext(before, I64))


def _futex(k: Emitter, address: Int, operation: int, value: Int | int) -> None:
    syscall = k.declare("syscall", I64, [I64] * 7)
    number = FUTEX[platform.machine()]
    arguments = (number, address, operation, value, 0, 0, 0)
    k.builder.call(syscall, [k.integer(argument).value for argument in arguments])


def _emit_wait(module: Any) -> None:
    """wait(word, value, sleepers): return once the word differs from the value."""
    k, (word, value, sleepers) = _function(module, "wait", 3)
    with k.loop(0, SPINS):
        with k.when(_read(k, word).compare("!=", value)):
            k.builder.ret_void()
        _pause(k)
    _add(k, sleepers, 1)
    again, sleep, awake = (k.function.append_basic_block(name) for name in ("again", "sleep", "awake"))
    k.builder.branch(again)
    k.builder.position_at_end(again)
    k.builder.cbranch(_read(k, word).compare("==", value), sleep, awake)
    k.builder.position_at_end(sleep)
    _futex(k, word, WAIT, value)
    k.builder.branch(again)
    k.builder.position_at_end(awake)
    _add(k, sleepers, -1)
    k.builder.ret_void()


def _pause(k: Emitter) -> None:
    if platform.machine() == "x86_64":
        k.builder.call(k.declare("llvm.x86.sse2.pause", ir.VoidType(), []), [])


def _emit_signal(module: Any) -> None:
    """signal(word, sleepers): add 1 to the word and wake those who sleep on it.

    Both sides use sequentially consistent order: either the waiter sees the new word, or this sees the sleeper.
    """
    k, (word, sleepers) = _function(module, "signal", 2)
    _add(k, word, 1)
    with k.when(_read(k, sleepers).compare("!=", 0)):
        _futex(k, word, WAKE, 2**31 - 1)
    k.builder.ret_void()


def _emit_barrier(module: Any) -> None:
    """barrier(team): wait for all threads; the last to come resets the counters."""
    k, (team,) = _function(module, "barrier", 1)
    threads = k.load_int(team + THREADS)
    generation = _read(k, team + GENERATION)
    arrived = _add(k, team + ARRIVED, 1)
    with k.builder.if_else(arrived.compare("==", threads - 1)) as (last, early):
        with last:
            _write(k, team + ARRIVED, 0)
            with k.loop(0, threads) as thread:
                _write(k, team + COUNTERS + thread * LINE, 0, 64)
            _call(k, "signal", team + GENERATION, team + SLEEPERS)
        with early:
            _call(k, "wait", team + GENERATION, generation, team + SLEEPERS)
    k.builder.ret_void()


def _emit_walk(module: Any) -> None:
    """walk(team, program, thread): the share of one thread in a program."""
    k, (team, program, thread) = _function(module, "walk", 3)
    waves, threads = k.load_int(program + 8), k.load_int(team + THREADS)
    with k.loop(0, k.load_int(program)) as number:
        wave = waves + number * WAVE_BYTES
        items = k.load_int(wave + 16)
        with k.loop(thread, thread + threads) as turn:
            share = turn % threads
            start, stop = items * share // threads, items * (share + 1) // threads
            take, compute, done = (k.function.append_basic_block(name) for name in ("take", "compute", "done"))
            k.builder.branch(take)
            k.builder.position_at_end(take)
            item = start + _add(k, team + COUNTERS + share * LINE, 1, 64)
            k.builder.cbranch(item.compare("<", stop), compute, done)
            k.builder.position_at_end(compute)
            with k.loop(0, k.load_int(wave)) as index:
                step = k.load_int(wave + 8) + index * STEP_BYTES
                first = k.load_int(step + 16)
                mine = k.builder.and_(item.compare(">=", first), item.compare("<", k.load_int(step + 24)))
                with k.when(mine):
                    call_kernel(k, step, item - first, thread)
            k.builder.branch(take)
            k.builder.position_at_end(done)
        _call(k, "barrier", team)
    k.builder.ret_void()


def call_kernel(k: Emitter, step: Int, item: Int, thread: Int) -> None:
    """Compute one item of a step, counted from its first."""
    function = k.builder.inttoptr(k.load_int(step).value, KERNEL.as_pointer())
    k.builder.call(function, [argument.value for argument in (k.load_int(step + 8), item, thread)])


def _emit_run(module: Any) -> None:
    """run(team, program): set the team to work and take part as thread 0; returns when all is done."""
    k, (team, program) = _function(module, "run", 2, internal=False)
    _write(k, team + PROGRAM, program, 64)
    _call(k, "signal", team + JOB, team + JOB_SLEEPERS)
    with k.when(program.compare("!=", 0)):
        _call(k, "walk", team, program, 0)
    k.builder.ret_void()


def _emit_work(module: Any) -> None:
    """work(team): join the team, then walk each program it is given until the program 0."""
    k, (team,) = _function(module, "work", 1, internal=False)
    thread = _add(k, team + JOINED, 1, 64) + 1
    with k.loop(0, 2**62) as job:
        seen = Int(k, k.builder.sext(k.builder.trunc(job.value, I32), I64))  # jobs are counted in 32 bits
        _call(k, "wait", team + JOB, seen, team + JOB_SLEEPERS)
        program = _read(k, team + PROGRAM, 64)
        with k.when(program.compare("==", 0)):
            k.builder.ret_void()
        _call(k, "walk", team, program, thread)
    k.builder.ret_void()
