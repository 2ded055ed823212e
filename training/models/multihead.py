"""One network, split: a shared trunk feeds M heads (arXiv 2505.17909, section 3).

    network = MultiHeadNetwork(lambda: wide_resnet_parts(28, 10, classes=100), heads=3, blocks_in_head=8)
    logits = network(images)                                            # [H, B, K]

Any network can be split that can be written as stem -> blocks -> classifier. The vocabulary everywhere:
B batch, C channels, H heads, K classes, T tokens, D model width.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from training.errors import ConfigError


@dataclass(frozen=True)
class Parts:
    """A network in three parts. Tensors named in `context` reach every block and the classifier unchanged.

    stem(*inputs) -> hidden; block(hidden, *context) -> hidden; classifier(hidden, *context) -> logits [B, K]

    A norm belongs to the part that reads through it: what ends the network (final norm, pooling, linear) is the
    classifier, and a block that normalizes its input owns that norm. So each head has norms of its own. Raises
    ConfigError when a context is not an input.
    """

    stem: nn.Module
    blocks: Sequence[nn.Module]
    classifier: nn.Module
    inputs: tuple[str, ...] = ("image",)
    context: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in self.context:
            if name not in self.inputs:
                raise ConfigError(f"Parts: the context {name!r} is not one of the inputs {', '.join(self.inputs)}.")

    def parameters(self) -> Iterator[nn.Parameter]:
        """All parameters, of the whole member."""
        for module in (self.stem, *self.blocks, self.classifier):
            yield from module.parameters()


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
    different from each other. Raises ConfigError for a split that the network does not have, and for weights that
    belong to two members or to trunk and head.
    """

    def __init__(self, build: Callable[[], Parts], *, heads: int, blocks_in_head: int | Literal["all"]) -> None:
        super().__init__()
        members = [build() for _ in range(heads)]
        first = members[0]
        total = len(first.blocks)
        private = total if blocks_in_head == "all" else blocks_in_head
        if not 0 <= private <= total:
            raise ConfigError(f"blocks_in_head must be from 0 to {total} or all for this network, not {private}.")
        _require_fresh(members)
        self.input_names = first.inputs
        self.context_names = first.context
        shared = total - private
        self.trunk = Trunk(first, shared) if shared else None
        self.heads = nn.ModuleList(Head(parts, private, with_stem=self.trunk is None) for parts in members)
        self._context = [first.inputs.index(name) for name in first.context]
        if self.trunk is not None:
            _require_untied(self.trunk, self.heads[0])

    def head_inputs(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """What each head reads: (hidden, *context), or the model inputs when there is no trunk."""
        if self.trunk is None:
            return inputs
        return (self.trunk(*inputs), *(inputs[index] for index in self._context))

    def forward(self, *inputs: Tensor) -> Tensor:
        """Logits of all heads, [H, B, K]."""
        shared = self.head_inputs(*inputs)
        return torch.stack([head(*shared) for head in self.heads])


def _require_fresh(members: Sequence[Parts]) -> None:
    """Raise ConfigError when two members share a parameter: their heads would be one head."""
    owners: dict[nn.Parameter, int] = {}
    for member, parts in enumerate(members):
        for parameter in parts.parameters():
            if owners.setdefault(parameter, member) != member:
                raise ConfigError("The builder returned the same weights twice; it must make new modules on each call.")


def _require_untied(trunk: nn.Module, head: nn.Module) -> None:
    """Raise ConfigError when a weight lies on both sides of the split: only one of the heads could follow it."""
    shared = {parameter: name for name, parameter in trunk.named_parameters()}
    for name, parameter in head.named_parameters():
        if parameter in shared:
            raise ConfigError(
                f"trunk.{shared[parameter]} and heads.0.{name} are one tied weight; it cannot belong to the trunk and "
                "to each head. Untie it, or use blocks_in_head=all."
            )
