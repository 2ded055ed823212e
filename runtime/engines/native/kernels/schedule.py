"""What walks a program: threads take items of a wave, and whoever computes the last one opens the next wave.

A program is int64 (number of waves, address of the waves, number of its first wave). A wave is WAVE_BYTES: (number of
steps, address of the steps, items of all of them). Its steps, such as the same layer of several heads, run side by
side; a step is STEP_BYTES: (kernel, arguments, first item, end of its items).

Every thread first takes the items of its own share of a wave, always the same neighbouring ones, so that what it has
written in one wave is in its cache in the next; then it helps others. Nobody waits for a thread, only for items: one
that the system does not let run is not missed, its share is taken by the others. So a thread may come late by any
number of waves, or programs; a counter therefore holds the number of the wave in its upper bits, and an item counts
only in the wave that it was taken from. Waves are numbered through all programs.

A team is `team_bytes`. Waiting spins briefly and then sleeps in the kernel (futex), so idle threads burn no core.
"""

import platform
from typing import Any

from llvmlite import ir

from runtime.engines.native.emitter import I64, LINE, Emitter, Int

WAVE_BYTES, STEP_BYTES = 24, 32
KERNEL = ir.FunctionType(ir.VoidType(), [I64] * 3)
WAVE, SLEEPERS, DONE, PROGRAM, THREADS, JOINED, ENDED = 0, 64, 128, 192, 200, 208, 216
"""Offsets of int64 words in a team: number of the wave that was opened last, threads that sleep until the next, items
of the wave that are computed, program, number of threads, threads that have joined, and whether to end."""
COUNTERS = 256
"""Offset in a team of the items taken from the share of each thread, one cache line each."""
ITEM_BITS = 20
"""Low bits of a counter that hold an item; the others hold the wave."""
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
    _emit_open(module)
    _emit_take_part(module)
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


def _typed(k: Emitter, address: Int) -> Any:
    """Pointer with the type that llvmlite wants to see for atomic operations."""
    return k.builder.inttoptr(address.value, I64.as_pointer())


def _read(k: Emitter, address: Int) -> Int:
    return Int(k, k.builder.load_atomic(_typed(k, address), "seq_cst", 8))


def _write(k: Emitter, address: Int, value: Int | int) -> None:
    k.builder.store_atomic(k.integer(value).value, _typed(k, address), "seq_cst", 8)


def _change(k: Emitter, operation: str, address: Int, value: Int | int) -> Int:
    """Change a word atomically; return the value before."""
    return Int(k, k.builder.atomic_rmw(operation, _typed(k, address), k.integer(value).value, "seq_cst"))


def _futex(k: Emitter, address: Int, operation: int, value: Int | int) -> None:
    syscall = k.declare("syscall", I64, [I64] * 7)
    number = FUTEX[platform.machine()]
    arguments = (number, address, operation, value, 0, 0, 0)
    k.builder.call(syscall, [k.integer(argument).value for argument in arguments])


def _emit_wait(module: Any) -> None:
    """wait(team, wave): return once another wave than this was opened."""
    k, (team, wave) = _function(module, "wait", 2)
    with k.loop(0, SPINS):
        with k.when(_read(k, team + WAVE).compare("!=", wave)):
            k.builder.ret_void()
        _pause(k)
    _change(k, "add", team + SLEEPERS, 1)
    again, sleep, awake = (k.function.append_basic_block(name) for name in ("again", "sleep", "awake"))
    k.builder.branch(again)
    k.builder.position_at_end(again)
    k.builder.cbranch(_read(k, team + WAVE).compare("==", wave), sleep, awake)
    k.builder.position_at_end(sleep)
    _futex(k, team + WAVE, WAIT, wave)  # looks at the low 32 bits
    k.builder.branch(again)
    k.builder.position_at_end(awake)
    _change(k, "sub", team + SLEEPERS, 1)
    k.builder.ret_void()


def _pause(k: Emitter) -> None:
    if platform.machine() == "x86_64":
        k.builder.call(k.declare("llvm.x86.sse2.pause", ir.VoidType(), []), [])


def _emit_open(module: Any) -> None:
    """open(team, program, wave): let the items of a wave be taken, if the program has it, and wake who sleeps.

    Others may compute all of the wave, and open the next, before this has announced it: hence the maximum. Both sides
    use sequentially consistent order: either a waiter sees the new wave, or this sees the sleeper.
    """
    k, (team, program, wave) = _function(module, "open", 3)
    with k.when((wave - k.load_int(program + 16)).compare("<", k.load_int(program))):
        _write(k, team + DONE, 0)
        with k.loop(0, k.load_int(team + THREADS)) as share:
            _write(k, team + COUNTERS + share * LINE, wave * 2**ITEM_BITS)
    _change(k, "umax", team + WAVE, wave)
    with k.when(_read(k, team + SLEEPERS).compare("!=", 0)):
        _futex(k, team + WAVE, WAKE, 2**31 - 1)
    k.builder.ret_void()


def _emit_take_part(module: Any) -> None:
    """take_part(team, thread): take and compute items until none is left in any share."""
    k, (team, thread) = _function(module, "take_part", 2)
    threads = k.load_int(team + THREADS)
    with k.loop(thread, thread + threads) as turn:
        share = turn % threads
        take, look, check, compute, done = (
            k.function.append_basic_block(name) for name in ("take", "look", "check", "compute", "done")
        )
        k.builder.branch(take)
        k.builder.position_at_end(take)
        taken = _change(k, "add", team + COUNTERS + share * LINE, 1)
        # Who holds an item that counts keeps its program from ending, so this is the program of the item.
        program = _read(k, team + PROGRAM)
        number = taken // 2**ITEM_BITS
        index = number - k.load_int(program + 16)
        k.builder.cbranch(index.compare(">=", 0), look, done)
        k.builder.position_at_end(look)
        k.builder.cbranch(index.compare("<", k.load_int(program)), check, done)
        k.builder.position_at_end(check)
        wave = k.load_int(program + 8) + index * WAVE_BYTES
        items = k.load_int(wave + 16)
        item = items * share // threads + taken % 2**ITEM_BITS
        k.builder.cbranch(item.compare("<", items * (share + 1) // threads), compute, done)
        k.builder.position_at_end(compute)
        with k.loop(0, k.load_int(wave)) as one:
            step = k.load_int(wave + 8) + one * STEP_BYTES
            first = k.load_int(step + 16)
            mine = k.builder.and_(item.compare(">=", first), item.compare("<", k.load_int(step + 24)))
            with k.when(mine):
                call_kernel(k, step, item - first, thread)
        with k.when(_change(k, "add", team + DONE, 1).compare("==", items - 1)):
            _call(k, "open", team, program, number + 1)
        k.builder.branch(take)
        k.builder.position_at_end(done)
    k.builder.ret_void()


def call_kernel(k: Emitter, step: Int, item: Int, thread: Int) -> None:
    """Compute one item of a step, counted from its first."""
    call_function(k, k.load_int(step), k.load_int(step + 8), item, thread)


def call_function(k: Emitter, address: Int, arguments: Int, item: Int, thread: Int) -> None:
    """Compute one item by the kernel at an address."""
    function = k.builder.inttoptr(address.value, KERNEL.as_pointer())
    k.builder.call(function, [argument.value for argument in (arguments, item, thread)])


def _emit_run(module: Any) -> None:
    """run(team, program): compute a program, of at least one wave, with the team; program 0 ends the team."""
    k, (team, program) = _function(module, "run", 2, internal=False)
    first = _read(k, team + WAVE) + 1
    with k.when(program.compare("==", 0)):
        _write(k, team + ENDED, 1)
        _change(k, "umax", team + WAVE, first)
        _futex(k, team + WAVE, WAKE, 2**31 - 1)
        k.builder.ret_void()
    last = first + k.load_int(program)
    _write(k, program + 16, first)
    _write(k, team + PROGRAM, program)
    _call(k, "open", team, program, first)
    more, wait, done = (k.function.append_basic_block(name) for name in ("more", "wait", "done"))
    k.builder.branch(more)
    k.builder.position_at_end(more)
    wave = _read(k, team + WAVE)
    _call(k, "take_part", team, 0)
    k.builder.cbranch(_read(k, team + WAVE).compare("==", last), done, wait)
    k.builder.position_at_end(wait)
    _call(k, "wait", team, wave)
    k.builder.branch(more)
    k.builder.position_at_end(done)
    k.builder.ret_void()


def _emit_work(module: Any) -> None:
    """work(team): join the team, then take part in each wave until the team ends."""
    k, (team,) = _function(module, "work", 1, internal=False)
    thread = _change(k, "add", team + JOINED, 1) + 1
    with k.loop(0, 2**62):
        wave = _read(k, team + WAVE)
        with k.when(_read(k, team + ENDED).compare("!=", 0)):
            k.builder.ret_void()
        with k.when(_read(k, team + PROGRAM).compare("!=", 0)):
            _call(k, "take_part", team, thread)
        _call(k, "wait", team, wave)
    k.builder.ret_void()
