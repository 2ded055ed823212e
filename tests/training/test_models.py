"""Networks and their split into trunk and heads."""

import pytest
import torch
from torch import nn

from training.errors import ConfigError
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
