"""Whole rows of a batch, each computed by one thread alone, without any barrier.

One item is one row: it is copied from the batch into memory of the thread, goes through all waves of a program for one
thread, and its results are copied back.
"""

from runtime.engines.native.emitter import Int
from runtime.engines.native.kernels.kernel import Context, Kernel
from runtime.engines.native.kernels.schedule import STEP_BYTES, WAVE_BYTES, call_kernel

PROGRAM_BYTES, COPY_BYTES = 48, 24
FIELDS = ("programs",)
"""`programs`: per thread PROGRAM_BYTES, int64 (number of waves, address of the waves, number of inputs, address of the
inputs, number of outputs, address of the outputs); an input or output is COPY_BYTES, int64 (address in the memory of
the thread, address in the batch, bytes of one row)."""


def _emit(c: Context) -> None:
    k = c.k
    program = c.a.programs + c.thread * PROGRAM_BYTES
    with k.loop(0, k.load_int(program + 16)) as index:
        private, batch, size = _copy(c, program + 24, index)
        k.copy(private, batch, size)
    with k.loop(0, k.load_int(program)) as number:
        wave = k.load_int(program + 8) + number * WAVE_BYTES
        with k.loop(0, k.load_int(wave)) as index:
            step = k.load_int(wave + 8) + index * STEP_BYTES
            with k.loop(0, k.load_int(step + 24) - k.load_int(step + 16)) as item:
                call_kernel(k, step, item, k.integer(0))
    with k.loop(0, k.load_int(program + 32)) as index:
        private, batch, size = _copy(c, program + 40, index)
        k.copy(batch, private, size)


def _copy(c: Context, table: Int, index: Int) -> tuple[Int, Int, Int]:
    """Address in the memory of the thread, address of the row in the batch, and bytes."""
    k = c.k
    entry = k.load_int(table) + index * COPY_BYTES
    size = k.load_int(entry + 16)
    return k.load_int(entry), k.load_int(entry + 8) + c.item * size, size


ALONE = Kernel("alone", FIELDS, _emit)
