"""Gathers the pixels of one chunk of lanes and convolves them at once: what was gathered stays in the first caches."""

from runtime.engines.native.kernels.kernel import Context, Kernel
from runtime.engines.native.kernels.schedule import call_function

FIELDS = ("gather", "gather_arguments", "convolve", "convolve_arguments", "parts")
"""Address and arguments of two kernels. An item is a chunk: one item of the first, `parts` of the second."""


def _emit(c: Context) -> None:
    k, a = c.k, c.a
    call_function(k, a.gather, a.gather_arguments, c.item, c.thread)
    with k.loop(0, a.parts) as part:
        call_function(k, a.convolve, a.convolve_arguments, c.item * a.parts + part, c.thread)


CHAIN = Kernel("chain", FIELDS, _emit)
