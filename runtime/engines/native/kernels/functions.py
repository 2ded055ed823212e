"""Elementary functions on vectors: exponential, error function and the activations made of them."""

import math

from llvmlite import ir

from runtime.engines.native.emitter import INDICES, LANES, LINE, VECTOR, Emitter, Int, Vec

ACTIVATIONS = ("none", "relu", "gelu", "silu", "sigmoid", "tanh", "gelu_tanh")
"""Activation -> its number in kernel arguments."""
RELU = ACTIVATIONS.index("relu")


def exponential(k: Emitter, x: Vec) -> Vec:
    """e^x with a relative error below 2e-7; exactly 0 below -87.3, NaN for NaN.

    x = n ln 2 + r with |r| <= ln 2 / 2; e^r by its Taylor polynomial of degree 7, 2^n by the exponent bits. Adding
    1.5 * 2^23 rounds to the nearest integer and leaves it in the low bits.
    """
    low, magic = -87.3, 12582912.0
    bounded = x.max(k.vector(low)).min(k.vector(88.3))
    shifted = bounded.times_plus(k.vector(1 / math.log(2)), k.vector(magic))
    n = shifted - k.vector(magic)
    rest = n.times_plus(k.vector(-0.693359375), bounded)
    rest = n.times_plus(k.vector(2.12194440e-4), rest)
    power = k.vector(1 / math.factorial(7))
    for degree in range(6, -1, -1):
        power = power.times_plus(rest, k.vector(1 / math.factorial(degree)))
    bits = k.builder.bitcast(shifted.value, INDICES)
    bits = k.builder.shl(bits, ir.Constant(INDICES, [23] * LANES))
    bits = k.builder.add(bits, ir.Constant(INDICES, [127 << 23] * LANES))
    result = power * Vec(k, k.builder.bitcast(bits, VECTOR))
    return k.vector(0.0).where(k.builder.fcmp_ordered("<", x.value, k.vector(low).value), result)


def error_function(k: Emitter, x: Vec) -> Vec:
    """erf(x) with an absolute error below 5e-7 (Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26)."""
    size = k.intrinsic("llvm.fabs", x)
    one = k.vector(1.0)
    t = one / size.times_plus(k.vector(0.3275911), one)
    series = k.vector(1.061405429)
    for coefficient in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        series = series.times_plus(t, k.vector(coefficient))
    result = one - series * t * exponential(k, k.vector(0.0) - x * x)
    return k.intrinsic("llvm.copysign", result, x)


def activation(k: Emitter, kind: str, x: Vec) -> Vec:
    """Apply one of ACTIVATIONS."""
    one = k.vector(1.0)
    match kind:
        case "relu":
            return x.max(k.vector(0.0))
        case "gelu":
            return x * k.vector(0.5) * (one + error_function(k, x * k.vector(math.sqrt(0.5))))
        case "silu":
            return x / (one + exponential(k, k.vector(0.0) - x))
        case "sigmoid":
            return one / (one + exponential(k, k.vector(0.0) - x))
        case "tanh":
            return k.vector(2.0) / (one + exponential(k, x * k.vector(-2.0))) - one
        case "gelu_tanh":  # (1 + tanh u) / 2 = 1 / (1 + e^-2u)
            slope = k.vector(-2 * math.sqrt(2 / math.pi))
            u = x * slope * (x * x).times_plus(k.vector(0.044715), one)
            return x / (one + exponential(k, u))
        case _:
            return x


def activate(k: Emitter, address: Int, vectors: Int | int, kind: Int) -> None:
    """Apply the activation with number `kind` in place to neighbouring vectors."""
    function = _activate_function(k)
    k.builder.call(function, [address.value, k.integer(vectors).value, kind.value])


def _activate_function(k: Emitter) -> object:
    name = "activate"
    module = k.function.module
    if name in module.globals:
        return module.globals[name]
    i64 = ir.IntType(64)
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [i64, i64, i64]), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    inner = Emitter(function)
    address, vectors, kind = (Int(inner, argument) for argument in function.args)
    with inner.loop(0, vectors) as vector:
        place = address + vector * LINE
        for number in inner.cases(kind, range(1, len(ACTIVATIONS))):
            inner.store(place, activation(inner, ACTIVATIONS[number], inner.load(place)))
    inner.builder.ret_void()
    return function
