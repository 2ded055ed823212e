"""A thin layer over llvmlite that lets a kernel read like the loop it becomes.

    with k.loop(0, channels) as c:
        k.store(y + c * 64, k.load(x + c * 64).max(k.vector(0.0)))

`Int` is an i64, also used for addresses; `Vec` is 16 lanes of float32, whatever the machine: LLVM splits it into the
registers that there are. Python `if` and `for` run while the code is generated, `k.when` and `k.loop` in the code.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from llvmlite import ir

LANES = 16
"""Lanes of a vector: one cache line of float32."""
LINE = 64
"""Bytes of a vector."""

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
F32 = ir.FloatType()
POINTER = ir.PointerType()
VECTOR = ir.VectorType(F32, LANES)
INDICES = ir.VectorType(I32, LANES)
MASK = ir.VectorType(I1, LANES)


class Int:
    """An i64 in generated code."""

    def __init__(self, k: "Emitter", value: Any) -> None:
        self.k, self.value = k, value

    def __add__(self, other: "Int | int") -> "Int":
        return Int(self.k, self.k.builder.add(self.value, self.k.integer(other).value))

    def __sub__(self, other: "Int | int") -> "Int":
        return Int(self.k, self.k.builder.sub(self.value, self.k.integer(other).value))

    def __mul__(self, other: "Int | int") -> "Int":
        return Int(self.k, self.k.builder.mul(self.value, self.k.integer(other).value))

    def __floordiv__(self, other: "Int | int") -> "Int":
        return Int(self.k, self.k.builder.udiv(self.value, self.k.integer(other).value))

    def __mod__(self, other: "Int | int") -> "Int":
        return Int(self.k, self.k.builder.urem(self.value, self.k.integer(other).value))

    def compare(self, relation: str, other: "Int | int") -> Any:
        """I1 of a signed comparison: `==`, `!=`, `<`, `<=`, `>` or `>=`."""
        return self.k.builder.icmp_signed(relation, self.value, self.k.integer(other).value)

    def at_most(self, other: "Int | int") -> "Int":
        """Return the smaller of the two."""
        other = self.k.integer(other)
        return Int(self.k, self.k.builder.select(self.compare("<", other), self.value, other.value))


class Vec:
    """16 lanes of float32 in generated code."""

    def __init__(self, k: "Emitter", value: Any) -> None:
        self.k, self.value = k, value

    def __add__(self, other: "Vec") -> "Vec":
        return Vec(self.k, self.k.builder.fadd(self.value, other.value))

    def __sub__(self, other: "Vec") -> "Vec":
        return Vec(self.k, self.k.builder.fsub(self.value, other.value))

    def __mul__(self, other: "Vec") -> "Vec":
        return Vec(self.k, self.k.builder.fmul(self.value, other.value))

    def __truediv__(self, other: "Vec") -> "Vec":
        return Vec(self.k, self.k.builder.fdiv(self.value, other.value))

    def times_plus(self, factor: "Vec", term: "Vec") -> "Vec":
        """Return self * factor + term, fused where the machine can."""
        return self.k.intrinsic("llvm.fmuladd", self, factor, term)

    def max(self, other: "Vec") -> "Vec":
        """Return the larger lane by lane; NaN stays NaN when it is in `self`."""
        smaller = self.k.builder.fcmp_ordered("<", self.value, other.value)
        return Vec(self.k, self.k.builder.select(smaller, other.value, self.value))

    def min(self, other: "Vec") -> "Vec":
        """Return the smaller lane by lane; NaN stays NaN when it is in `self`."""
        larger = self.k.builder.fcmp_ordered(">", self.value, other.value)
        return Vec(self.k, self.k.builder.select(larger, other.value, self.value))

    def where(self, mask: Any, other: "Vec") -> "Vec":
        """Take lanes of `self` where `mask` is set and of `other` elsewhere."""
        return Vec(self.k, self.k.builder.select(mask, self.value, other.value))

    def total(self) -> Any:
        """Sum of the lanes, a float in generated code."""
        name = f"llvm.vector.reduce.fadd.v{LANES}f32"
        function = self.k.declare(name, F32, [F32, VECTOR])
        return self.k.builder.call(function, [ir.Constant(F32, 0.0), self.value], fastmath=("reassoc",))


Value = TypeVar("Value", bound=Int | Vec)


class Cell(Generic[Value]):
    """A variable of generated code: lives in a register once LLVM has optimised."""

    def __init__(self, k: "Emitter", initial: Value) -> None:
        self.k = k
        self._kind = type(initial)
        self._type = VECTOR if isinstance(initial, Vec) else I64
        with k.builder.goto_entry_block():
            self._slot = k.builder.alloca(self._type)
        self.set(initial)

    def get(self) -> Value:
        """Return the present value."""
        return self._kind(self.k, self.k.builder.load(self._slot, typ=self._type))

    def set(self, value: Value) -> None:
        """Change the value."""
        self.k.builder.store(value.value, self._slot)


class Emitter:
    """Emits the body of one function."""

    def __init__(self, function: Any) -> None:
        self.function = function
        self.builder = ir.IRBuilder(function.append_basic_block("entry"))

    def integer(self, value: Int | int) -> Int:
        """Return a constant, or `value` itself."""
        return value if isinstance(value, Int) else Int(self, ir.Constant(I64, value))

    def vector(self, value: float) -> Vec:
        """Return a constant in all lanes."""
        return Vec(self, ir.Constant(VECTOR, [value] * LANES))

    def splat(self, value: Any) -> Vec:
        """Return one float of generated code in all lanes."""
        one = self.builder.insert_element(ir.Constant(VECTOR, ir.Undefined), value, ir.Constant(I32, 0))
        zeros = ir.Constant(INDICES, [0] * LANES)
        return Vec(self, self.builder.shuffle_vector(one, ir.Constant(VECTOR, ir.Undefined), zeros))

    def pointer(self, address: Int) -> Any:
        """Turn an address into a pointer."""
        return self.builder.inttoptr(address.value, POINTER)

    def load_int(self, address: Int, bits: int = 64, *, signed: bool = True) -> Int:
        """Load an integer of 16, 32 or 64 bits."""
        value = self.builder.load(self.pointer(address), typ=ir.IntType(bits), align=bits // 8)
        if bits == 64:
            return Int(self, value)
        return Int(self, self.builder.sext(value, I64) if signed else self.builder.zext(value, I64))

    def load(self, address: Int, *, align: int = LINE) -> Vec:
        """Load 16 neighbouring floats."""
        return Vec(self, self.builder.load(self.pointer(address), typ=VECTOR, align=align))

    def broadcast(self, address: Int) -> Vec:
        """Load one float into all lanes."""
        return self.splat(self.builder.load(self.pointer(address), typ=F32, align=4))

    def store(self, address: Int, value: Vec) -> None:
        """Store 16 neighbouring floats at an aligned address."""
        self.builder.store(value.value, self.pointer(address), align=LINE)

    def store_float(self, address: Int, value: Any) -> None:
        """Store one float of generated code."""
        self.builder.store(value, self.pointer(address), align=4)

    def copy(self, target: Int, source: Int, size: Int) -> None:
        """Copy so many bytes between addresses that do not overlap."""
        function = self.declare("llvm.memcpy.p0.p0.i64", ir.VoidType(), [POINTER, POINTER, I64, I1])
        arguments = [self.pointer(target), self.pointer(source), size.value, ir.Constant(I1, 0)]
        self.builder.call(function, arguments)

    def indices(self, address: Int) -> Any:
        """Load 16 signed 32-bit numbers."""
        return self.builder.load(self.pointer(address), typ=INDICES, align=4)

    def gather(self, base: Int, offsets: Any, mask: Any, missing: Vec) -> Vec:
        """Load one float per lane from `base` + its byte offset where `mask` is set; `missing` elsewhere."""
        wide = self.builder.sext(offsets, ir.VectorType(I64, LANES))
        pointers = self.builder.gep(self.pointer(base), [wide], source_etype=I8)
        pointers.type = ir.VectorType(POINTER, LANES)
        name = f"llvm.masked.gather.v{LANES}f32.v{LANES}p0"
        function = self.declare(name, VECTOR, [pointers.type, I32, MASK, VECTOR])
        return Vec(self, self.builder.call(function, [pointers, ir.Constant(I32, 4), mask, missing.value]))

    def load_masked(self, address: Int, mask: Any) -> Vec:
        """Load 16 neighbouring floats at any address; lanes outside `mask` are zero and their memory is not read."""
        function = self.declare(f"llvm.masked.load.v{LANES}f32.p0", VECTOR, [POINTER, I32, MASK, VECTOR])
        arguments = [self.pointer(address), ir.Constant(I32, 4), mask, self.vector(0.0).value]
        return Vec(self, self.builder.call(function, arguments))

    def bits(self, value: Int) -> Any:
        """Turn the low 16 bits into a lane mask."""
        return self.builder.bitcast(self.builder.trunc(value.value, I16), MASK)

    def intrinsic(self, name: str, *arguments: Vec) -> Vec:
        """Call an LLVM intrinsic on vectors."""
        function = self.declare(f"{name}.v{LANES}f32", VECTOR, [VECTOR] * len(arguments))
        return Vec(self, self.builder.call(function, [argument.value for argument in arguments]))

    def declare(self, name: str, result: Any, parameters: Sequence[Any]) -> Any:
        """Declare an external function once in the module."""
        module = self.function.module
        if name in module.globals:
            return module.globals[name]
        return ir.Function(module, ir.FunctionType(result, parameters), name)

    @contextmanager
    def loop(self, start: Int | int, stop: Int | int, step: int = 1) -> Iterator[Int]:
        """Run the body for each number from `start` up to before `stop`."""
        start, stop, entry = self.integer(start), self.integer(stop), self.builder.block
        head, body, after = (self.function.append_basic_block(name) for name in ("head", "body", "after"))
        self.builder.branch(head)
        self.builder.position_at_end(head)
        index = self.builder.phi(I64)
        index.add_incoming(start.value, entry)
        self.builder.cbranch(Int(self, index).compare("<", stop), body, after)
        self.builder.position_at_end(body)
        yield Int(self, index)
        index.add_incoming((Int(self, index) + step).value, self.builder.block)
        self.builder.branch(head)
        self.builder.position_at_end(after)

    @contextmanager
    def when(self, condition: Any, *, likely: bool | None = None) -> Iterator[None]:
        """Run the body if the I1 `condition` is set."""
        with self.builder.if_then(condition, likely=likely):
            yield

    def cases(self, value: Int, numbers: Sequence[int]) -> Iterator[int]:
        """Emit the body once for each number; the one that equals `value` runs, none if none does."""
        after = self.function.append_basic_block("after_cases")
        switch = self.builder.switch(value.value, after)
        for number in numbers:
            block = self.function.append_basic_block(f"case_{number}")
            switch.add_case(ir.Constant(I64, number), block)
            self.builder.position_at_end(block)
            yield number
            self.builder.branch(after)
        self.builder.position_at_end(after)
