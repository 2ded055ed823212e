"""One network, split: a shared trunk feeds M heads (arXiv 2505.17909, section 3).

    network = MultiHeadNetwork(lambda: wide_resnet_parts(28, 10, classes=100), heads=3, blocks_in_head=8)
    logits = network(images)                                            # [H, B, K]

Any network can be split that can be written as stem -> blocks -> classifier. The vocabulary everywhere:
B batch, C channels, H heads, K classes, T tokens, D model width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Parts:
    """A network in three parts. Tensors named in `context` reach every block and the classifier unchanged.

    stem(*inputs) -> hidden; block(hidden, *context) -> hidden; classifier(hidden, *context) -> logits [B, K]
    """

    stem: nn.Module
    blocks: Sequence[nn.Module]
    classifier: nn.Module
    inputs: tuple[str, ...] = ("image",)
    context: tuple[str, ...] = ()


class Trunk(nn.Module):
    """The stem and the shared blocks: model inputs -> hidden, the raw output of the last shared block."""

    def __init__(self, parts: Parts, blocks: int) -> None:
        super().__init__()
        self.stem = parts.stem
        self.blocks = nn.ModuleList(parts.blocks[:blocks])
        self._context = [parts.inputs.index(name) for name in parts.context]

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return what passes to the heads."""
        hidden: Tensor = self.stem(*inputs)
        context = [inputs[index] for index in self._context]
        for block in self.blocks:
            hidden = block(hidden, *context)
        return hidden


class Head(nn.Module):
    """One branch: its private blocks, its own norm, pooling and classifier (and stem, when there is no trunk)."""

    def __init__(self, parts: Parts, blocks: int, *, with_stem: bool) -> None:
        super().__init__()
        self.stem = parts.stem if with_stem else None
        self.blocks = nn.ModuleList(parts.blocks[len(parts.blocks) - blocks :])
        self.classifier = parts.classifier
        self._context = [parts.inputs.index(name) for name in parts.context]

    def forward(self, *tensors: Tensor) -> Tensor:
        """Logits [B, K] from (hidden, *context), or from the model inputs when the head owns the stem."""
        if self.stem is None:
            hidden, *context = tensors
        else:
            hidden, context = self.stem(*tensors), [tensors[index] for index in self._context]
        for block in self.blocks:
            hidden = block(hidden, *context)
        logits: Tensor = self.classifier(hidden, *context)
        return logits


class MultiHeadNetwork(nn.Module):
    """Trunk and M heads; `blocks_in_head` goes from 0 (heads are classifiers) to all blocks (no trunk at all).

    `build` makes the parts of one member with fresh weights; it is called once for each head, so that heads start
    different from each other.
    """

    def __init__(self, build: Callable[[], Parts], *, heads: int, blocks_in_head: int) -> None:
        super().__init__()
        members = [build() for _ in range(heads)]
        first = members[0]
        total = len(first.blocks)
        if not 0 <= blocks_in_head <= total:
            raise ValueError(f"blocks_in_head must be from 0 to {total} for this network, not {blocks_in_head}")
        self.input_names = first.inputs
        self.context_names = first.context
        shared = total - blocks_in_head
        self.trunk = Trunk(first, shared) if shared else None
        self.heads = nn.ModuleList(Head(parts, blocks_in_head, with_stem=self.trunk is None) for parts in members)
        self._context = [first.inputs.index(name) for name in first.context]

    def head_inputs(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """What each head reads: (hidden, *context), or the model inputs when there is no trunk."""
        if self.trunk is None:
            return inputs
        return (self.trunk(*inputs), *(inputs[index] for index in self._context))

    def forward(self, *inputs: Tensor) -> Tensor:
        """Logits of all heads, [H, B, K]."""
        shared = self.head_inputs(*inputs)
        return torch.stack([head(*shared) for head in self.heads])
