"""Operators as PyTorch exports them, against ONNX Runtime: every instruction set, several shapes and threads."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from runtime.engines.native.compile import instruction_sets
from tests.runtime.native.exported import Function, export, padding_mask, require_parity
from tests.runtime.native.harness import require_close, run_native, run_reference

IMAGES = ((6, 13, 18), (6, 8, 8), (6, 1, 5))
"""Channels, height, width."""
TOKENS = ((1, 12), (7, 12), (37, 12), (220, 12))
"""Tokens, channels."""


class SqueezeAndExcite(nn.Module):
    """One factor for each image and channel."""

    def __init__(self) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(6, 4, 1), nn.Conv2d(4, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.expand(functional.silu(self.reduce(functional.adaptive_avg_pool2d(x, 1))))
        return x * torch.sigmoid(gate)


def _shuffled(x: Tensor) -> Tensor:
    """Channels of groups in turn, as in ShuffleNet."""
    rows, channels, height, width = x.shape
    grouped = x.view(rows, 2, channels // 2, height, width).transpose(1, 2)
    return grouped.reshape(rows, channels, height, width)


IMAGE_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "average, padding counts": lambda x: functional.avg_pool2d(x, (1, 3), (1, 2), (0, 1)),
    "average of a tensor in chunks": lambda x: functional.avg_pool2d(torch.tanh(x), (1, 3), (1, 2), (0, 1)),
    "average, padding left out": lambda x: functional.avg_pool2d(x, (1, 3), (1, 2), (0, 1), count_include_pad=False),
    "global average": lambda x: functional.adaptive_avg_pool2d(x, 1),
    "global average, flattened": lambda x: functional.adaptive_avg_pool2d(x, 1).flatten(1),
    "mean": lambda x: x.mean((2, 3)),
    "mean, kept": lambda x: x.mean((2, 3), keepdim=True),
    "mean of pixels": lambda x: x.flatten(2).mean(-1),
    "sum": lambda x: x.sum((2, 3)),
    "silu": functional.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "gelu": functional.gelu,
    "gelu by tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "quick gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "powers": lambda x: 2 * x**3 - x * x + 0.5 * x,
    "square": lambda x: x**2,
    "product": lambda x: torch.tanh(x) * functional.relu(x),
    "quotient": lambda x: x / (1 + torch.sigmoid(x)),
    "quotient by a number": lambda x: x / 3,
    "difference": lambda x: torch.tanh(x) - functional.relu(x),
    "difference from a number": lambda x: 1.5 - x,
    "negative": lambda x: -functional.relu(x),
    "concatenation": lambda x: torch.cat([torch.relu(x), x, x[:, 1:2], 2 * x], 1),
    "channels": lambda x: x[:, 2:5],
    "channels, split": lambda x: torch.cat(x.chunk(3, 1)[::-1], 1),
    "channels, gated": lambda x: functional.glu(x, 1),
    "shuffled channels": _shuffled,
    "norm over the channels of an image": lambda x: functional.layer_norm(x.movedim(1, 3), (6,)).movedim(3, 1),
    "pixels as tokens": lambda x: x.flatten(2).transpose(1, 2),
}  # fmt: skip


@pytest.mark.parametrize("name", IMAGE_FUNCTIONS)
def test_a_function_of_images_is_that_of_onnx_runtime(name: str) -> None:
    model = export(Function(IMAGE_FUNCTIONS[name]), torch.ones(2, *IMAGES[0]), sizes={2: "height", 3: "width"})
    for shape in IMAGES:
        require_parity(model, shape)


IMAGE_LAYERS: dict[str, Callable[[], nn.Module]] = {
    "squeeze and excite": SqueezeAndExcite,
    "depthwise": lambda: nn.Conv2d(6, 6, (1, 3), padding=(0, 1), groups=6),
    "depthwise, wider": lambda: nn.Conv2d(6, 12, (1, 3), stride=2, padding=1, groups=6),
    "groups": lambda: nn.Sequential(nn.Conv2d(6, 9, 1, groups=3), nn.SiLU(), nn.Conv2d(9, 6, 1, groups=3)),
    "norm and silu": lambda: nn.Sequential(nn.Conv2d(6, 5, 1), nn.BatchNorm2d(5), nn.SiLU()),
    "norm behind concatenation": lambda: nn.Sequential(
        Function(lambda x: torch.cat([x, torch.tanh(x)], 1)),
        nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 4, 3, padding=1),
    ),
    "concatenation of rows": lambda: nn.Sequential(
        Function(lambda x: torch.cat([x.mean((2, 3)), x[:, :, 0, 0]], 1)),
        nn.Linear(12, 5),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", IMAGE_LAYERS)
def test_layers_on_images_are_those_of_onnx_runtime(name: str) -> None:
    torch.manual_seed(0)
    model = export(IMAGE_LAYERS[name](), torch.ones(2, *IMAGES[0]), sizes={2: "height", 3: "width"})
    for shape in IMAGES:
        require_parity(model, shape)


@pytest.mark.parametrize("shape", [(3, 4, 5), (6, 1, 1), (1, 7, 7)])
def test_a_linear_layer_on_a_whole_map_is_that_of_onnx_runtime(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    channels, inputs = shape[0], int(np.prod(shape))
    flat = nn.Sequential(
        nn.Conv2d(channels, channels, 1), nn.Flatten(), nn.Linear(inputs, 9), nn.ReLU(), nn.Linear(9, 4)
    )
    require_parity(export(flat, torch.ones(2, *shape)), shape)
    transposed = nn.Sequential(Function(lambda x: x.permute(0, 2, 3, 1).flatten(1)), nn.Linear(inputs, 9))
    require_parity(export(transposed, torch.ones(2, *shape)), shape)


def _norm_spelled_out(x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    variance = (centred**2).mean(-1, keepdim=True)
    return centred / torch.sqrt(variance + 1e-5) * torch.linspace(0.5, 2, 12) + torch.linspace(-1, 1, 12)


def _norm_with_product(x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (torch.mean(centred * centred, -1, keepdim=True) + 1e-6).sqrt()


TOKEN_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "norm spelled out": _norm_spelled_out,
    "norm with a product": _norm_with_product,
    "mean": lambda x: x.mean(1),
    "sum": lambda x: x.sum(1),
    "first token": lambda x: x[:, 0],
    "last token": lambda x: 3 * x[:, -1],
    "first token, cut": lambda x: x[:, :1].flatten(1),
    "first token of some channels": lambda x: x[:, 0, 4:9],
    "silu": functional.silu,
    "sigmoid": torch.sigmoid,
    "gelu by tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "new gelu": lambda x: 0.5 * x * (1.0 + torch.tanh(0.7978845608028654 * (x + 0.044715 * torch.pow(x, 3.0)))),
    "fast gelu": lambda x: 0.5 * x * (1.0 + torch.tanh(x * 0.7978845608 * (1.0 + 0.044715 * x * x))),
    "gated": lambda x: functional.silu(x[..., :6]) * x[..., 6:],
    "gated in turn": lambda x: functional.gelu(x[..., 0:4]) * x[..., 4:8] - x[..., 8:12],
    "quotient": lambda x: x / (2 + torch.tanh(x)),
    "positions": lambda x: torch.relu(x) + torch.linspace(-1, 1, 220 * 12).view(1, 220, 12)[:, : x.shape[1]],
    "factors of places": lambda x: x * torch.linspace(-1, 1, 220 * 12).view(1, 220, 12)[:, : x.shape[1]],
    "heads in another order": lambda x: x.view(*x.shape[:2], 3, 4).transpose(2, 3).flatten(2),
    "concatenation": lambda x: torch.cat([x, torch.tanh(x)], -1),
}


@pytest.mark.parametrize("name", TOKEN_FUNCTIONS)
def test_a_function_of_tokens_is_that_of_onnx_runtime(name: str) -> None:
    model = export(Function(TOKEN_FUNCTIONS[name]), torch.ones(2, *TOKENS[1]), sizes={1: "tokens"})
    for shape in TOKENS:
        require_parity(model, shape)


HEADS, WIDTH = 3, 4
Triple = tuple[Tensor, Tensor, Tensor]


def _heads(x: Tensor) -> Tensor:
    return x.view(x.shape[0], x.shape[1], HEADS, WIDTH).transpose(1, 2)


def _by_chunk(x: Tensor) -> Triple:
    query, key, value = x.chunk(3, -1)
    return _heads(query), _heads(key), _heads(value)


def _by_slice(x: Tensor) -> Triple:
    return _heads(x[..., :12]), _heads(x[..., 12:24]), _heads(x[..., 24:])


def _by_reshape(x: Tensor) -> Triple:
    query, key, value = x.reshape(x.shape[0], x.shape[1], 3, HEADS, WIDTH).permute(2, 0, 3, 1, 4).unbind(0)
    return query, key, value


def _by_index(x: Tensor) -> Triple:
    fused = x.reshape(x.shape[0], x.shape[1], 3, HEADS, WIDTH).permute(2, 0, 3, 1, 4)
    return fused[0], fused[1], fused[2]


def _by_head(x: Tensor) -> Triple:
    query, key, value = x.view(x.shape[0], x.shape[1], HEADS, 3 * WIDTH).transpose(1, 2).chunk(3, -1)
    return query, key, value


FUSED = {"chunk": _by_chunk, "slice": _by_slice, "reshape": _by_reshape, "index": _by_index, "head": _by_head}


class Attention(nn.Module):
    """Self-attention whose query, key and value come from one linear layer."""

    def __init__(self, cut: Callable[[Tensor], Triple], bias: Callable[[Tensor, Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.cut, self.bias = cut, bias
        self.fused, self.out = nn.Linear(12, 36), nn.Linear(12, 12)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        query, key, value = self.cut(self.fused(x))
        scores = query @ key.transpose(-1, -2) / WIDTH**0.5
        if self.bias is not None and mask is not None:
            scores = self.bias(scores, mask)
        attended = scores.softmax(-1) @ value
        joined: Tensor = self.out(attended.transpose(1, 2).reshape(x.shape))
        return joined


@pytest.mark.parametrize("cut", FUSED)
def test_query_key_and_value_of_one_layer_are_cut_as_onnx_runtime_cuts_them(cut: str) -> None:
    torch.manual_seed(0)
    model = export(Attention(FUSED[cut]), torch.ones(2, *TOKENS[1]), sizes={1: "tokens"})
    for shape in TOKENS:
        require_parity(model, shape)


LOWEST = torch.finfo(torch.float32).min


def _hugging_face(scores: Tensor, mask: Tensor) -> Tensor:
    inverted = 1.0 - mask[:, None, None, :].expand(-1, 1, scores.shape[-1], -1).to(scores.dtype)
    return scores + inverted.masked_fill(inverted.to(torch.bool), LOWEST)


def _every_head(scores: Tensor, mask: Tensor) -> Tensor:
    bias = torch.where(mask == 0, LOWEST, 0.0)
    return scores + bias[:, None, None, :].expand(scores.shape)


MASKED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "product": lambda scores, mask: scores + (1.0 - mask[:, None, None, :].float()) * -1e9,
    "lowest": lambda scores, mask: scores + (1.0 - mask[:, None, None, :].float()) * LOWEST,
    "where": lambda scores, mask: scores + torch.where(mask[:, None, None, :] == 0, -1e9, 0.0),
    "where not": lambda scores, mask: scores + torch.where(~mask.bool(), float("-inf"), 0.0)[:, None, None],
    "filled": lambda scores, mask: scores.masked_fill(mask[:, None, None, :] == 0, -1e9),
    "filled with infinity": lambda scores, mask: scores.masked_fill(~(mask[:, None, None, :] > 0.5), float("-inf"))
    if mask.is_floating_point() else torch.where(mask[:, None, None].bool(), scores, float("-inf")),
    "hugging face": _hugging_face,
    "every head": _every_head,
}  # fmt: skip


@pytest.mark.parametrize("name", MASKED)
def test_masked_attention_is_that_of_onnx_runtime(name: str) -> None:
    torch.manual_seed(0)
    mask = torch.ones(2, TOKENS[1][0], dtype=torch.int64)
    model = export(Attention(_by_chunk, MASKED[name]), torch.ones(2, *TOKENS[1]), mask, sizes={1: "tokens"})
    for shape in TOKENS:
        require_parity(model, shape)


class ScaledDotProduct(nn.Module):
    """PyTorch's own attention with a mask of truth values; weights of rows without any key are 0."""

    def __init__(self) -> None:
        super().__init__()
        self.fused = nn.Linear(12, 36)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        query, key, value = _by_reshape(self.fused(x))
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask.bool()[:, None, None, :])
        return attended.transpose(1, 2).reshape(x.shape)


class MultiHead(nn.Module):
    """PyTorch's own module, which puts tokens first and joins rows with heads."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(12, HEADS, batch_first=True)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        attended: Tensor = self.attention(x, x, x, key_padding_mask=mask == 0, need_weights=False)[0]
        return attended


@pytest.mark.parametrize("shape", TOKENS)
@pytest.mark.parametrize("kind", [ScaledDotProduct, MultiHead])
def test_the_attention_of_pytorch_is_that_of_onnx_runtime(kind: type[nn.Module], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    mask = torch.ones(2, shape[0], dtype=torch.int64)
    model = export(kind(), torch.ones(2, *shape), mask)  # the export of MultiHead holds the number of tokens
    require_parity(model, shape)


EMPTY_ROWS: dict[str, Callable[[], nn.Module]] = {
    "pytorch": ScaledDotProduct,
    "pytorch, module": MultiHead,
    **{name: partial(Attention, _by_chunk, bias) for name, bias in MASKED.items()},
}


@pytest.mark.parametrize("name", EMPTY_ROWS)
def test_a_row_without_any_token_hurts_no_other_and_is_that_of_onnx_runtime(name: str) -> None:
    torch.manual_seed(0)
    shape = TOKENS[2]
    model = export(EMPTY_ROWS[name](), torch.ones(2, *shape), torch.ones(2, shape[0], dtype=torch.int64))
    x, mask = np.random.default_rng(0).standard_normal((3, *shape)).astype(np.float32), padding_mask(3, shape[0])
    empty = mask * np.array([[1], [0], [1]])
    expected = run_reference(model, {"x": x, "mask": empty})
    for instruction_set in instruction_sets():
        whole = run_native(model, {"x": x, "mask": mask}, instruction_set=instruction_set)
        found = run_native(model, {"x": x, "mask": empty}, instruction_set=instruction_set)
        np.testing.assert_array_equal(found[[0, 2]], whole[[0, 2]])
        require_close(found[[0, 2]], expected[[0, 2]])
        np.testing.assert_allclose(found[1], expected[1], rtol=1e-4, atol=1e-4)  # NaN where that is NaN


def _clamped(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of the tokens as sentence transformers take it."""
    weights = mask.unsqueeze(-1).expand(x.size()).float()
    return torch.sum(x * weights, 1) / torch.clamp(weights.sum(1), min=1e-9)


MEANS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "clamped": _clamped,
    "plain": lambda x, mask: (x * mask[:, :, None].float()).sum(1) / mask[:, :, None].float().sum(1),
    "by comparison": lambda x, mask: (x * (mask != 0).unsqueeze(2).float()).sum(1) / (mask != 0).float().sum(1, True),
}


@pytest.mark.parametrize("name", MEANS)
def test_a_masked_mean_is_that_of_onnx_runtime(name: str) -> None:
    mask = torch.ones(2, TOKENS[1][0], dtype=torch.int64)
    model = export(Function(MEANS[name]), torch.ones(2, *TOKENS[1]), mask, sizes={1: "tokens"})
    for shape in TOKENS:
        require_parity(model, shape)


@pytest.mark.parametrize("name", MEANS)
def test_the_mean_of_a_row_without_any_token_is_that_of_onnx_runtime(name: str) -> None:
    shape = TOKENS[2]
    model = export(Function(MEANS[name]), torch.ones(2, *shape), torch.ones(2, shape[0], dtype=torch.int64))
    x, mask = np.random.default_rng(0).standard_normal((3, *shape)).astype(np.float32), padding_mask(3, shape[0])
    tensors = {"x": x, "mask": mask * np.array([[1], [0], [1]])}
    expected = run_reference(model, tensors)
    for instruction_set in instruction_sets():
        found = run_native(model, tensors, instruction_set=instruction_set)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)  # NaN where that is NaN, 0 where it is 0
