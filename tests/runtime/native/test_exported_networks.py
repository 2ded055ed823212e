"""Whole small networks as PyTorch exports them: logits of ONNX Runtime, and plans without needless passes."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from runtime.engines.native.compile import instruction_sets
from tests.runtime.native.exported import VOCABULARY, Function, export, padding_mask, require_parity
from tests.runtime.native.harness import Array, plan_of, run_native

MACHINE = next(iter(instruction_sets().values()))
SIDE, WIDTH, HEADS, TOKENS = 20, 24, 3, 40


class Inception(nn.Module):
    """Branches of different reach, concatenated."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.single, self.reduce = nn.Conv2d(inputs, 6, 1), nn.Conv2d(inputs, 4, 1)
        self.wide, self.pooled = nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(inputs, 4, 1)
        self.norm = nn.BatchNorm2d(16)

    def forward(self, x: Tensor) -> Tensor:
        wide = self.wide(functional.silu(self.reduce(x)))
        pooled = self.pooled(functional.avg_pool2d(x, 3, 1, 1))
        return functional.silu(self.norm(torch.cat([self.single(x), wide, pooled], 1)))


class DenseLayer(nn.Module):
    """A layer that adds its channels to those it read."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.norm, self.convolution = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, 5, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.convolution(torch.relu(self.norm(x)))], 1)


class ImageNetwork(nn.Module):
    """Stem with SiLU, inception, densely connected layers, average pooling, a head on the whole map."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8)
        self.inception, self.dense = Inception(8), nn.Sequential(DenseLayer(16), DenseLayer(21))
        self.depthwise = nn.Conv2d(26, 26, 3, padding=1, groups=26)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(26 * 5 * 5, 16), nn.Tanh(), nn.Linear(16, 5))

    def forward(self, x: Tensor) -> Tensor:
        x = functional.silu(self.norm(self.stem(x)))
        x = functional.avg_pool2d(self.dense(self.inception(x)), 2)
        logits: Tensor = self.head(x + torch.sigmoid(self.depthwise(x)))
        return logits


class Block(nn.Module):
    """Norm first; query, key and value from one layer; a gated feed-forward layer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.fused, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.wide, self.narrow = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        rows, tokens, width = x.shape
        fused = self.fused(self.norm1(x)).reshape(rows, tokens, 3, HEADS, width // HEADS).permute(2, 0, 3, 1, 4)
        query, key, value = fused.unbind(0)
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None, :].bool())
        x = x + self.out(attended.transpose(1, 2).reshape(rows, tokens, width))
        gate, content = self.wide(self.norm2(x)).chunk(2, -1)
        wide = functional.gelu(gate, approximate="tanh") * content
        result: Tensor = x + self.narrow(wide)
        return result


class TextNetwork(nn.Module):
    """Pre-norm transformer whose first token is classified."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, mask)
        logits: Tensor = self.head(self.norm(x)[:, 0])
        return logits


def _text(kind: type[nn.Module]) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    return kind(), torch.randn(2, TOKENS, WIDTH), torch.ones(2, TOKENS, dtype=torch.int64)


class StandardEncoder(nn.Module):
    """PyTorch's encoder layers, and the mean of the tokens."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, 2 * WIDTH, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.encoder(x, src_key_padding_mask=mask == 0)
        logits: Tensor = self.head((x * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True))
        return logits


class Bert(nn.Module):
    """Embeddings of words, places and kinds; norms spelled out, behind the sums; a mask of the lowest number."""

    numbers: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(2 * TOKENS, WIDTH)
        self.kinds, self.norm = nn.Embedding(2, WIDTH), SpelledOutNorm()
        self.layers = nn.ModuleList([BertLayer(), BertLayer()])
        self.pool, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 5)
        self.register_buffer("numbers", torch.arange(2 * TOKENS)[None])

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        places = self.places(self.numbers[:, : ids.shape[1]])
        x = self.norm(self.words(ids) + self.kinds(torch.zeros_like(ids)) + places)
        bias = (1.0 - mask[:, None, None, :].to(x.dtype)) * torch.finfo(x.dtype).min
        for layer in self.layers:
            x = layer(x, bias)
        logits: Tensor = self.head(torch.tanh(self.pool(x[:, 0])))
        return logits


class WithoutMask(nn.Module):
    """Padding is what has the token id 0."""

    def __init__(self) -> None:
        super().__init__()
        self.bert = Bert()

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.bert(ids, ids.ne(0).long())
        return logits


class SpelledOutNorm(nn.Module):
    """Layer norm of TensorFlow's kind."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(WIDTH)), nn.Parameter(torch.rand(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return self.weight * (centred / torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + 1e-12)) + self.bias


class BertLayer(nn.Module):
    """Norms behind the sums; query, key and value from layers of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.wide, self.narrow = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.norm1, self.norm2 = SpelledOutNorm(), SpelledOutNorm()

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        heads = (*x.shape[:2], HEADS, WIDTH // HEADS)
        query, key, value = (layer(x).view(heads).permute(0, 2, 1, 3) for layer in (self.query, self.key, self.value))
        weights = (query @ key.transpose(-1, -2) / (WIDTH // HEADS) ** 0.5 + bias).softmax(-1)
        context = (weights @ value).permute(0, 2, 1, 3).contiguous()
        x = self.norm1(self.out(context.view(x.shape)) + x)
        wide = self.wide(x)
        result: Tensor = self.norm2(self.narrow(wide * 0.5 * (1.0 + torch.erf(wide / 2**0.5))) + x)
        return result


def test_a_network_like_bert_is_that_of_onnx_runtime_at_every_length() -> None:
    torch.manual_seed(0)
    ids = torch.ones(2, TOKENS, dtype=torch.int64)
    model = export(Bert(), ids, ids, sizes={1: "tokens"})
    for tokens in (1, 16, 33, 80):
        require_parity(model, (tokens,))
    plan = plan_of(model, {"ids": (2, TOKENS), "mask": (2, TOKENS)}, threads=2, machine=MACHINE)
    kernels = Counter(step.kernel for step in plan.steps)
    assert kernels["layer_norm"] == 5
    assert kernels.keys() <= {"embed", "layer_norm", "stream", "dense", "attention", "average"}


def test_a_mask_that_is_computed_from_token_ids_is_understood() -> None:
    torch.manual_seed(0)
    require_parity(export(WithoutMask(), torch.ones(2, TOKENS, dtype=torch.int64)), (TOKENS,))


def test_a_network_on_images_is_that_of_onnx_runtime() -> None:
    torch.manual_seed(0)
    network, x = ImageNetwork(), torch.randn(16, 3, SIDE, SIDE)
    network.train()(x)  # statistics of the norms
    require_parity(export(network, x[:2]), tuple(x.shape[1:]), scale=1.0)


@pytest.mark.parametrize("kind", [TextNetwork, StandardEncoder])
def test_a_transformer_is_that_of_onnx_runtime(kind: type[nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mha, "get_fastpath_enabled", lambda: False)  # has no ONNX form
    network, x, mask = _text(kind)
    require_parity(export(network, x, mask), (TOKENS, WIDTH))


def test_a_fused_layer_is_cut_by_its_weight_and_copies_nothing() -> None:
    network, x, mask = _text(TextNetwork)
    plan = plan_of(export(network, x, mask), {"x": (2, TOKENS, WIDTH), "mask": (2, TOKENS)}, threads=2, machine=MACHINE)
    kernels = Counter(step.kernel for step in plan.steps)
    assert "copy" not in kernels
    assert kernels["attention"] == 2
    assert kernels["choose"] == 1
    assert kernels["combine"] == 2
    assert "map" not in kernels


def _norm(x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-5) * torch.ones(WIDTH) + torch.ones(WIDTH)


ONE_STEP: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "silu": ("map", functional.silu),
    "gelu": ("map", functional.gelu),
    "gelu by tanh": ("map", lambda x: functional.gelu(x, approximate="tanh")),
    "gelu by tanh of a power": (
        "map",
        lambda x: 0.5 * x * (1 + torch.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))),
    ),
    "difference from a number": ("map", lambda x: 1 - x),
    "norm": ("layer_norm", _norm),
    "mean": ("average", lambda x: x.mean(1)),
    "first token": ("average", lambda x: x[:, 0]),
}


@pytest.mark.parametrize("name", ONE_STEP)
def test_a_pattern_is_one_step(name: str) -> None:
    kernel, function = ONE_STEP[name]
    model = export(Function(function), torch.ones(2, TOKENS, WIDTH))
    plan = plan_of(model, {"x": (2, TOKENS, WIDTH)}, threads=2, machine=MACHINE)
    assert [step.kernel for step in plan.steps] == [kernel]


@pytest.mark.parametrize("instruction_set", instruction_sets())
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_row_that_is_not_finite_changes_no_other_row(value: float, instruction_set: str) -> None:
    torch.manual_seed(0)
    image, (network, tokens, _) = ImageNetwork(), _text(TextNetwork)
    generator = np.random.default_rng(0)
    for model, shape in (
        (export(image, torch.randn(2, 3, SIDE, SIDE)), (3, 3, SIDE, SIDE)),
        (export(network, tokens, torch.ones(2, TOKENS, dtype=torch.int64)), (3, TOKENS, WIDTH)),
    ):
        tensors: dict[str, Array] = {"x": generator.standard_normal(shape).astype(np.float32)}
        if len(shape) == 3:
            tensors["mask"] = padding_mask(3, TOKENS)
        clean = run_native(model, tensors, threads=2, instruction_set=instruction_set)
        tensors["x"][1] = value
        dirty = run_native(model, tensors, threads=2, instruction_set=instruction_set)
        np.testing.assert_array_equal(dirty[[0, 2]], clean[[0, 2]])
        assert not np.isfinite(dirty[1]).any()
