"""What a kernel is: a name, the fields of its arguments, and the function that emits its body."""

from collections.abc import Callable
from dataclasses import dataclass

from runtime.engines.native.emitter import Emitter, Int
from runtime.engines.native.machine import InstructionSet


class Fields:
    """The arguments of a kernel by name, in generated code: `a.x` is the i64 at the place of field `x`."""

    def __init__(self, k: Emitter, arguments: Int, names: tuple[str, ...]) -> None:
        self._values = {name: k.load_int(arguments + 8 * index) for index, name in enumerate(names)}

    def __getattr__(self, name: str) -> Int:
        return self._values[name]

    def at(self, tensor: str, image: Int, vector: Int) -> Int:
        """Address of channel 0 of a vector of lanes in a tensor that has the fields `located(tensor)`."""
        chunk_vectors = self._values[f"{tensor}_chunk_vectors"]
        base = self._values[tensor] + image * self._values[f"{tensor}_image"]
        return base + (vector // chunk_vectors) * self._values[f"{tensor}_chunk"] + (vector % chunk_vectors) * 64


def located(tensor: str) -> tuple[str, ...]:
    """Names of the fields that place a tensor; see `Layout` in layout.py."""
    return (tensor, f"{tensor}_image", f"{tensor}_chunk", f"{tensor}_chunk_vectors", f"{tensor}_channel")


@dataclass(frozen=True)
class Context:
    """What a kernel's body is emitted with."""

    k: Emitter
    a: Fields
    item: Int
    thread: Int
    machine: InstructionSet


@dataclass(frozen=True)
class Kernel:
    """One kernel of the library."""

    name: str
    fields: tuple[str, ...]
    emit: Callable[[Context], None]
