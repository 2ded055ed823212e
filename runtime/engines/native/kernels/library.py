"""All kernels and the schedule as one LLVM module. It depends on the machine, never on a network."""

from typing import Any

from llvmlite import ir

from runtime.engines.native.emitter import I64, Emitter, Int
from runtime.engines.native.kernels.alone import ALONE
from runtime.engines.native.kernels.attention import ATTENTION
from runtime.engines.native.kernels.chain import CHAIN
from runtime.engines.native.kernels.dense import DENSE
from runtime.engines.native.kernels.elementwise import CHOOSE, COMBINE, COPY
from runtime.engines.native.kernels.kernel import Context, Fields, Kernel
from runtime.engines.native.kernels.pack import AVERAGE_POOL, MAX_POOL, PACK_GATHER, PACK_RUNS
from runtime.engines.native.kernels.rows import AVERAGE, EMBED, LAYER_NORM, MAP
from runtime.engines.native.kernels.schedule import emit_schedule
from runtime.engines.native.kernels.stream import STREAM
from runtime.engines.native.machine import InstructionSet

_ALL = (
    ALONE, CHAIN, STREAM, DENSE, PACK_RUNS, PACK_GATHER, MAX_POOL, AVERAGE_POOL, MAP, COMBINE, COPY, CHOOSE, LAYER_NORM,
    AVERAGE, EMBED, ATTENTION,
)  # fmt: skip
KERNELS = {kernel.name: kernel for kernel in _ALL}


def build_module(machine: InstructionSet) -> str:
    """LLVM IR of the library for a machine; only its number of registers matters here."""
    module = ir.Module(name="neurotrails")
    emit_schedule(module)
    for kernel in KERNELS.values():
        _emit_kernel(module, kernel, machine)
    return str(module)


def _emit_kernel(module: Any, kernel: Kernel, machine: InstructionSet) -> None:
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64, I64, I64]), kernel.name)
    k = Emitter(function)
    arguments, item, thread = (Int(k, argument) for argument in function.args)
    kernel.emit(Context(k, Fields(k, arguments, kernel.fields), item, thread, machine))
    k.builder.ret_void()
