"""Networks and their split into trunk and heads."""

from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from training.config import EnsembleConfig, NetworkConfig, ResNetConfig, TextEncoderConfig, WideResNetConfig
from training.errors import ConfigError
from training.models.build import build_network
from training.models.multihead import MultiHeadNetwork, Parts
from training.models.text_encoder import EncoderBlock, text_encoder_parts
from training.models.wide_resnet import wide_resnet_parts


def encoder(heads: int = 2, blocks_in_head: int = 1) -> MultiHeadNetwork:
    torch.manual_seed(0)
    return MultiHeadNetwork(
        lambda: text_encoder_parts(
            vocabulary=50, width=16, blocks=2, attention_heads=2, max_tokens=12, classes=4, dropout=0.1
        ),
        heads=heads,
        blocks_in_head=blocks_in_head,
    ).eval()


@pytest.mark.parametrize("blocks_in_head", [0, 1, 3])
def test_any_number_of_blocks_can_be_private(blocks_in_head: int) -> None:
    network = MultiHeadNetwork(lambda: wide_resnet_parts(10, 1, classes=5), heads=3, blocks_in_head=blocks_in_head)
    assert network(torch.randn(2, 3, 8, 8)).shape == (3, 2, 5)
    assert (network.trunk is None) == (blocks_in_head == 3)
    assert [len(list(head.get_submodule("blocks").children())) for head in network.heads] == [blocks_in_head] * 3
    first, second = (torch.cat([p.flatten() for p in head.parameters() if p.ndim > 1]) for head in network.heads[:2])
    assert not torch.equal(first, second)


def test_a_member_without_trunk_is_the_plain_network() -> None:
    torch.manual_seed(1)
    parts = wide_resnet_parts(10, 1, classes=5)
    plain = nn.Sequential(parts.stem, *parts.blocks, parts.classifier).eval()
    torch.manual_seed(1)
    network = MultiHeadNetwork(lambda: wide_resnet_parts(10, 1, classes=5), heads=1, blocks_in_head=3).eval()
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(network(images)[0], plain(images))


def test_all_blocks_can_be_named_by_a_word() -> None:
    def build(blocks_in_head: int | Literal["all"]) -> MultiHeadNetwork:
        torch.manual_seed(0)
        return MultiHeadNetwork(lambda: wide_resnet_parts(10, 1, classes=5), heads=2, blocks_in_head=blocks_in_head)

    words, numbers = build("all"), build(3)
    assert words.trunk is None
    assert all(torch.equal(tensor, numbers.state_dict()[name]) for name, tensor in words.state_dict().items())


@pytest.mark.parametrize("blocks_in_head", [0, 1, 2, 3])
def test_each_head_normalizes_the_raw_residual_sum_by_norms_of_its_own(blocks_in_head: int) -> None:
    """By hand, from the weights: the trunk ends with an addition, and all norms behind it differ between heads."""
    torch.manual_seed(0)
    network = MultiHeadNetwork(lambda: wide_resnet_parts(10, 1, classes=5), heads=2, blocks_in_head=blocks_in_head)
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias)
    images = torch.randn(4, 3, 8, 8)
    network.train()(images)
    tensors: dict[str, Tensor] = dict(network.eval().state_dict())
    paths = [f"blocks.{index}" for index in range(3 - blocks_in_head)], [f"blocks.{i}" for i in range(blocks_in_head)]

    def active(x: Tensor, norm: str) -> Tensor:
        mean, variance, scale, shift = (
            tensors[f"{norm}.{name}"][:, None, None] for name in ("running_mean", "running_var", "weight", "bias")
        )
        return ((x - mean) / (variance + 1e-5).sqrt() * scale + shift).clamp(min=0)

    def block(x: Tensor, name: str, stride: int) -> Tensor:
        y = active(x, f"{name}.norm1")
        if f"{name}.shortcut.weight" in tensors:
            x = functional.conv2d(y, tensors[f"{name}.shortcut.weight"], stride=stride)
        y = functional.conv2d(y, tensors[f"{name}.conv1.weight"], stride=stride, padding=1)
        return x + functional.conv2d(active(y, f"{name}.norm2"), tensors[f"{name}.conv2.weight"], padding=1)

    logits = []
    for head in ("heads.0", "heads.1"):
        start = "trunk" if paths[0] else head
        x = functional.conv2d(images, tensors[f"{start}.stem.weight"], padding=1)
        names = [f"trunk.{path}" for path in paths[0]] + [f"{head}.{path}" for path in paths[1]]
        for index, name in enumerate(names):
            if index == len(paths[0]) and network.trunk is not None:
                torch.testing.assert_close(network.head_inputs(images)[0], x, rtol=1e-4, atol=1e-5)
            x = block(x, name, 2 if index else 1)
        pooled = active(x, f"{head}.classifier.norm").mean(dim=(2, 3))
        logits.append(
            pooled @ tensors[f"{head}.classifier.linear.weight"].T + tensors[f"{head}.classifier.linear.bias"]
        )
    torch.testing.assert_close(network(images), torch.stack(logits), rtol=1e-4, atol=1e-5)
    assert not torch.equal(tensors["heads.0.classifier.norm.weight"], tensors["heads.1.classifier.norm.weight"])


@pytest.mark.parametrize("blocks_in_head", [0, 1, 2])
def test_the_trunk_of_the_text_encoder_ends_at_the_raw_residual_sum(blocks_in_head: int) -> None:
    network = encoder(blocks_in_head=blocks_in_head)
    norms = {name for name, module in network.named_modules() if isinstance(module, nn.LayerNorm)}
    expected = {f"trunk.blocks.{index}.norm{n}" for index in range(2 - blocks_in_head) for n in (1, 2)}
    expected |= {f"heads.{h}.blocks.{index}.norm{n}" for h in (0, 1) for index in range(blocks_in_head) for n in (1, 2)}
    assert norms == expected | {f"heads.{h}.classifier.norm" for h in (0, 1)}
    if network.trunk is not None:  # without what its sublayers add, a block is the identity: nothing normalizes the sum
        last = network.trunk.blocks[-1]
        for layer in (last.get_submodule("out"), last.get_submodule("down")):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)
        hidden = torch.randn(2, 6, 16)
        assert torch.equal(last(hidden, torch.ones(2, 6, dtype=torch.int64)), hidden)


@pytest.mark.parametrize(
    "config",
    [
        WideResNetConfig(kind="wide_resnet", depth=10, width=1),
        ResNetConfig(kind="resnet", depth=18, stem="cifar"),
        TextEncoderConfig(kind="text_encoder", vocabulary=30, width=8, blocks=2, attention_heads=2),
    ],
    ids=lambda config: config.kind,
)
def test_the_same_seed_gives_the_same_bytes(config: NetworkConfig) -> None:
    def tensors(seed: int) -> dict[str, Tensor]:
        ensemble = EnsembleConfig(heads=2, blocks_in_head=1)
        return build_network(config, ensemble, classes=3, channels=1, seed=seed).state_dict()

    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = tensors(1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert all(torch.equal(tensor, first[name]) for name, tensor in tensors(1).items())
    assert any(not torch.equal(tensor, first[name]) for name, tensor in tensors(2).items())


def test_a_builder_that_makes_no_new_weights_is_refused() -> None:
    parts = wide_resnet_parts(10, 1, classes=5)
    with pytest.raises(ConfigError, match="returned the same weights twice"):
        MultiHeadNetwork(lambda: parts, heads=2, blocks_in_head=1)
    assert MultiHeadNetwork(lambda: parts, heads=1, blocks_in_head=1).trunk is not None


def tied_parts() -> Parts:
    """The classifier reads through the stem's weight, as language models often do."""
    stem, classifier = nn.Linear(4, 4), nn.Linear(4, 4)
    classifier.weight = stem.weight
    return Parts(stem, [nn.Linear(4, 4)], classifier, inputs=("features",))


def test_a_weight_tied_across_the_split_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"trunk\.stem\.weight and heads\.0\.classifier\.weight are one tied weight"):
        MultiHeadNetwork(tied_parts, heads=2, blocks_in_head=0)
    assert MultiHeadNetwork(tied_parts, heads=2, blocks_in_head="all")(torch.ones(3, 4)).shape == (2, 3, 4)


def test_too_many_private_blocks_are_refused() -> None:
    with pytest.raises(ConfigError, match="from 0 to 3 or all for this network, not 4"):
        MultiHeadNetwork(lambda: wide_resnet_parts(10, 1, classes=5), heads=3, blocks_in_head=4)


def test_depth_of_a_wide_resnet_is_checked() -> None:
    with pytest.raises(ConfigError, match="6n \\+ 4"):
        wide_resnet_parts(12, 1, classes=5)


def test_a_network_of_ones_own_is_split_by_the_same_mechanism() -> None:
    def parts() -> Parts:
        blocks = [nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(3)]
        return Parts(stem=nn.Linear(4, 6), blocks=blocks, classifier=nn.Linear(6, 2), inputs=("features",))

    assert MultiHeadNetwork(parts, heads=4, blocks_in_head=2)(torch.randn(5, 4)).shape == (4, 5, 2)


@pytest.mark.parametrize("blocks_in_head", [0, 1, 2])
def test_padding_never_changes_the_logits_of_a_text(blocks_in_head: int) -> None:
    network = encoder(blocks_in_head=blocks_in_head)
    ids = torch.randint(1, 50, (3, 5))
    padded = torch.cat([ids, torch.full((3, 7), 9)], dim=1)
    mask = torch.cat([torch.ones(3, 5), torch.zeros(3, 7)], dim=1).long()
    torch.testing.assert_close(network(padded, mask), network(ids, torch.ones_like(ids)), rtol=1e-5, atol=1e-6)


def test_attention_equals_its_definition() -> None:
    torch.manual_seed(0)
    block = EncoderBlock(16, 2, dropout=0.1).eval()
    x = torch.randn(2, 6, 16)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]])
    out = block.attend(x, mask)
    for row in range(2):
        tokens = int(mask[row].sum())
        for head in range(2):
            part = slice(8 * head, 8 * head + 8)
            q, k, v = (layer(x[row, :tokens])[:, part] for layer in (block.query, block.key, block.value))
            expected = torch.softmax(q @ k.T / 8**0.5, dim=-1) @ v
            torch.testing.assert_close(out[row, :tokens, part], expected, rtol=1e-5, atol=1e-6)
