"""Exports PyTorch modules as the project does, and compares the native engine with ONNX Runtime on them."""

import io
import warnings
from collections.abc import Callable
from itertools import cycle

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from runtime.engines.native.compile import instruction_sets
from runtime.graph import OPSET
from tests.runtime.native.harness import Array, require_close, run_native, run_reference

ROWS = (1, 3)
THREADS = (1, 2, 3)
VOCABULARY = 50


class Function(nn.Module):
    """A function as module."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)


def export(module: nn.Module, *inputs: Tensor, sizes: dict[int, str] | None = None) -> onnx.ModelProto:
    """Export with any number of rows; `sizes` are the other axes of any size. Inputs are named x, or ids if they
    are integers, and mask.
    """
    names = ["x" if inputs[0].is_floating_point() else "ids", "mask"][: len(inputs)]
    free = {0: "rows", **(sizes or {})}
    axes = {name: {at: free[at] for at in free if at < tensor.ndim} for name, tensor in zip(names, inputs, strict=True)}
    buffer = io.BytesIO()
    with warnings.catch_warnings():  # PyTorch warns of its own exporter, and of shapes that become constants
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            inputs,
            buffer,  # type: ignore[arg-type]  # a file object is documented and works
            opset_version=OPSET,
            dynamo=False,
            input_names=names,
            dynamic_axes=axes,
        )
    return onnx.load_from_string(buffer.getvalue())


def padding_mask(rows: int, tokens: int) -> Array:
    """1 for tokens, 0 for padding at the end of all rows but the first."""
    lengths = tokens - np.arange(rows) * (tokens - 1) // max(1, rows)
    return (np.arange(tokens) < lengths[:, None]).astype(np.int64)


def require_parity(model: onnx.ModelProto, shape: tuple[int, ...], *, scale: float = 2.0) -> None:
    """Compare on random x [rows, *shape] for batches of ROWS, every instruction set, and THREADS in turn.

    A model with an input `mask` gets one of padding, [rows, tokens], tokens being the first of `shape`. An input `ids`
    is [rows, tokens], too: numbers below VOCABULARY, 0 for padding.
    """
    generator = np.random.default_rng(sum(shape))
    threads = cycle(THREADS)
    for rows in ROWS:
        tensors: dict[str, Array] = {}
        for name in (tensor.name for tensor in model.graph.input):
            if name == "mask":
                tensors[name] = padding_mask(rows, shape[0])
            elif name == "ids":
                tensors[name] = generator.integers(1, VOCABULARY, (rows, shape[0])) * padding_mask(rows, shape[0])
            else:
                tensors[name] = (generator.standard_normal((rows, *shape)) * scale).astype(np.float32)
        expected = run_reference(model, tensors)
        for instruction_set in instruction_sets():
            found = run_native(model, tensors, threads=next(threads), instruction_set=instruction_set)
            require_close(found, expected)
