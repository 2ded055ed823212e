"""Multiply-adds: of one forward pass, dense and with kept weights only, and of a run's training steps.

Counted are convolutions and linear layers, once for each position at which a weight is used, and apart from them what
no mask makes cheaper: products of two activations (attention), and layers that no sparsity budget covers. Norms,
activation functions, biases and lookups in embeddings are not counted. Texts are counted at their longest length.

    row = one_example(preprocessing)
    uses = weight_uses(network, row)                       # {"trunk.stem.weight": 1024, ...}
    example_macs(uses, masks.kept())                       # effective MACs of one example, forward
    step_macs(uses, kept, sizes, rows=128, dense_gradients=True)
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from runtime.manifest import ImagePreprocessing, TextPreprocessing
from training.models.multihead import MultiHeadNetwork
from training.sparsity.sparsifier import Sparsifier


@dataclass(frozen=True)
class Macs:
    """Multiply-adds of one example through one stage."""

    dense: int
    """Of convolutions and linear layers with all their weights."""
    effective: int
    """The same with kept weights only."""
    activation: int
    """Of products of two activations, as in attention, and of layers that no sparsity budget covers."""

    @property
    def total(self) -> int:
        """What one example costs: kept weights and products of activations."""
        return self.effective + self.activation

    def __add__(self, other: "Macs") -> "Macs":
        return Macs(self.dense + other.dense, self.effective + other.effective, self.activation + other.activation)


def one_example(
    preprocessing: ImagePreprocessing | TextPreprocessing, *, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, ...]:
    """Model inputs of one example to count with: an image of zeros [1, C, height, width], or ones [1, T] twice."""
    if isinstance(preprocessing, ImagePreprocessing):
        shape = (1, len(preprocessing.mean), preprocessing.height, preprocessing.width)
        return (torch.zeros(shape, dtype=dtype),)
    ids = torch.ones((1, preprocessing.lengths[-1]), dtype=torch.int64)
    return ids, ids


def weight_uses(network: nn.Module, inputs: Sequence[Tensor]) -> dict[str, int]:
    """At how many positions each weight of a Conv2d or Linear is used for one example, by the weight's name.

    One forward pass of the first row of `inputs` with hooks; the network and the inputs may lie on the meta device.
    """
    uses, _ = _forward(network, inputs)
    return uses


def example_macs(uses: Mapping[str, int], kept: Mapping[str, int]) -> int:
    """MACs of one example's forward pass with `kept` weights by name; sizes instead of kept give the dense MACs.

    Weights in `kept` that are not in `uses`, such as embeddings, cost nothing. Raises ValueError for a weight that is
    used but not in `kept`.
    """
    missing = uses.keys() - kept.keys()
    if missing:
        raise ValueError(f"no count of kept weights is given for {min(missing)}")
    return sum(positions * kept[name] for name, positions in uses.items())


def step_macs(
    uses: Mapping[str, int],
    kept: Mapping[str, int],
    sizes: Mapping[str, int],
    *,
    rows: int,
    dense_gradients: bool,
    activation: int = 0,
) -> int:
    """MACs of one training step on `rows` examples (RigL, arXiv 1911.11134, appendix on FLOPs).

    A step costs 3 f_S for each example: the forward pass, the gradients of the activations and those of the weights. A
    step that computes the gradients of all weights, to regrow by them, costs 2 f_S + f_D. So does every step of
    regrowth by momentum, which averages dense gradients. `sizes` holds all entries of each weight, `activation` the
    MACs of products of two activations, which cost three times as much in training too.
    """
    sparse = example_macs(uses, kept)
    weight_gradients = example_macs(uses, sizes) if dense_gradients else sparse
    return rows * (2 * sparse + weight_gradients + 3 * activation)


class StepCost:
    """MACs of the training steps of one network, counted anew only after its masks have changed."""

    def __init__(self, network: MultiHeadNetwork, preprocessing: ImagePreprocessing | TextPreprocessing) -> None:
        self._uses, multiplied = _forward(network, one_example(preprocessing))
        sizes = {name: network.get_parameter(name).numel() for name in self._uses}
        self._activation = multiplied - example_macs(self._uses, sizes)
        self._of_a_row: dict[bool, int] = {}

    def __call__(self, sparsity: Sparsifier, *, rows: int, dense_gradients: bool) -> int:
        """MACs of one step on `rows` examples, see `step_macs`."""
        if dense_gradients not in self._of_a_row:
            self._of_a_row[dense_gradients] = step_macs(
                self._uses, sparsity.kept(), sparsity.sizes(), rows=1, dense_gradients=dense_gradients,
                activation=self._activation,
            )  # fmt: skip
        return rows * self._of_a_row[dense_gradients]

    def forget(self) -> None:
        """Count anew at the next step: masks have changed."""
        self._of_a_row = {}


def module_macs(module: nn.Module, inputs: Sequence[Tensor], kept: Mapping[str, int], *, prefix: str = "") -> Macs:
    """MACs of the first row of `inputs` through a module.

    `kept` counts kept weights by name, where the names of the module's own weights follow `prefix`; a weight that it
    does not name keeps all its entries.
    """
    uses, multiplied = _forward(module, inputs)
    sizes = {name: module.get_parameter(name).numel() for name in uses}
    dense = example_macs(uses, sizes)
    effective = example_macs(uses, {name: kept.get(prefix + name, size) for name, size in sizes.items()})
    return Macs(dense, effective, multiplied - dense)


def stage_macs(network: MultiHeadNetwork, inputs: Sequence[Tensor], kept: Mapping[str, int]) -> dict[str, Macs]:
    """MACs of one example by stage: `trunk` (if there is one) and `heads.0` to `heads.M-1`."""
    stages = {}
    if network.trunk is not None:
        stages["trunk"] = module_macs(network.trunk, inputs, kept, prefix="trunk.")
    with _evaluation_mode(network), torch.no_grad():
        shared = network.head_inputs(*(tensor[:1] for tensor in inputs))
    for index, head in enumerate(network.heads):
        stages[f"heads.{index}"] = module_macs(head, shared, kept, prefix=f"heads.{index}.")
    return stages


def _forward(module: nn.Module, inputs: Sequence[Tensor]) -> tuple[dict[str, int], int]:
    """Uses of each weight in one example's forward pass, and all multiply-adds of that pass with dense weights."""
    uses: dict[str, int] = {}
    names: dict[Tensor, str] = {}

    def count(name: str, layer: nn.Conv2d | nn.Linear, out: Tensor) -> None:
        channels = layer.out_channels if isinstance(layer, nn.Conv2d) else layer.out_features
        uses[name] = uses.get(name, 0) + out.numel() // channels

    with ExitStack() as stack:
        for name, layer in module.named_modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                weight = names.setdefault(layer.weight, f"{name}.weight" if name else "weight")  # shared: its first
                handle = layer.register_forward_hook(lambda layer, _, out, weight=weight: count(weight, layer, out))
                stack.callback(handle.remove)
        stack.enter_context(_evaluation_mode(module))
        stack.enter_context(torch.no_grad())
        # Fused attention is not counted, its mathematical definition is.
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        counter = stack.enter_context(FlopCounterMode(display=False))
        module(*(tensor[:1] for tensor in inputs))
    return uses, counter.get_total_flops() // 2


@contextmanager
def _evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Counting must not move the statistics of batch norms, nor a dropout's random generator."""
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)
