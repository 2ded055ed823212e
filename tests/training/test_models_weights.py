"""Which weights of unusual networks the masks cover: shared ones once, odd names too, and what they leave is named."""

from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from export.stages import Example, export_stages
from runtime.manifest import TensorSpec
from tests.engines import onnx_session
from training.checkpoint import pack, unpack
from training.models.multihead import MultiHeadNetwork, Parts
from training.sparsity.masks import Masks, maskable_weights, uncovered_weights


class Twice(nn.Module):
    """Two layers of one weight, under names that are no usual ones."""

    def __init__(self, first: nn.Conv2d | nn.Linear, second: nn.Conv2d | nn.Linear) -> None:
        super().__init__()
        self.w1, self.again = first, second
        self.again.weight = self.w1.weight

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.again(self.w1(x).relu())
        return out


def shared_parts() -> Parts:
    stem = nn.Sequential(nn.Conv2d(3, 8, 1), Twice(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)))
    classifier = nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), Twice(nn.Linear(8, 8), nn.Linear(8, 8)), nn.Linear(8, 4)
    )
    return Parts(stem, [nn.Conv2d(8, 8, 1)], classifier)


@pytest.mark.parametrize("blocks_in_head", [0, "all"])
def test_a_shared_weight_is_covered_stored_and_exported_once(blocks_in_head: int | Literal["all"]) -> None:
    torch.manual_seed(0)
    network = MultiHeadNetwork(shared_parts, heads=2, blocks_in_head=blocks_in_head).eval()
    masks = Masks.erk(network, 0.3, embeddings=False, generator=torch.Generator().manual_seed(0))
    single = {id(p): p.numel() for p in network.parameters() if p.ndim > 1}
    assert masks.total == sum(single.values())
    assert sum(masks.kept().values()) == round(0.3 * masks.total)
    assert not [name for name in masks.weights if "again" in name]

    other = MultiHeadNetwork(shared_parts, heads=2, blocks_in_head=blocks_in_head).eval()
    other.load_state_dict(unpack(pack(network.state_dict(), masks.masks))[0])
    images = torch.randn(4, 3, 6, 6)
    assert torch.equal(other(images), network(images))

    spec = TensorSpec(name="image", dtype="float32", shape=("batch", 3, 6, 6))
    stages, _ = export_stages(network, masks.masks, Example((images,), (spec,)), embeddings=False)
    tensors, logits = {"image": images.numpy()}, []
    for exported in stages:
        session = onnx_session(exported.model)
        [out] = session.run(None, {name: tensors[name] for name in exported.stage.inputs})
        if exported.stage.file == "trunk.onnx":
            tensors["features"] = out
        else:
            logits.append(out)
    np.testing.assert_allclose(np.stack(logits), network(images).detach().numpy(), rtol=1e-4, atol=1e-5)
    assert sum(layer.kept for exported in stages for layer in exported.layers) == round(0.3 * masks.total)
    pixels = 36 * (3 * 8 + 8 * 8 * 2 + 8 * 8)  # the shared weight works twice
    heads = 1 if blocks_in_head == 0 else 2
    assert sum(exported.stage.dense_macs for exported in stages) == heads * pixels + 2 * (8 * 8 * 2 + 8 * 4)


def test_what_no_mask_covers_is_named() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2)
            self.up = nn.ConvTranspose2d(4, 4, 2)
            self.steps = nn.Conv1d(4, 4, 3)
            self.memory = nn.GRU(4, 4)
            self.tokens = nn.Embedding(5, 4)
            self.plain = nn.Linear(4, 4)
            self.table = nn.Parameter(torch.zeros(3, 3))

    odd = Odd()
    assert list(maskable_weights(odd, embeddings=False)) == ["attention.out_proj.weight", "plain.weight"]
    assert set(uncovered_weights(odd)) == {
        "table", "attention.in_proj_weight", "up.weight", "steps.weight", "memory.weight_ih_l0", "memory.weight_hh_l0",
    }  # fmt: skip
    assert not uncovered_weights(MultiHeadNetwork(shared_parts, heads=2, blocks_in_head=1))


def test_a_layer_by_itself_is_covered_under_its_own_name() -> None:
    assert list(maskable_weights(nn.Linear(2, 2), embeddings=False)) == ["weight"]
