"""Gradual magnitude pruning (Zhu & Gupta, arXiv 1710.01878), driven by a SparseML recipe.

    pruning = GradualPruning(network, optimizer, Path("recipes/sparseml/gradual-pruning.yaml"), steps_per_epoch, epochs)

A dense network is trained, and SparseML takes its smallest weights away in steps: between `start_epoch` and `end_epoch`
of the recipe, sparsity goes from `init_sparsity` to `final_sparsity` by s = s_f + (s_i - s_f) (1 - progress)^3.
After k optimizer steps the masks are those of epoch k / steps_per_epoch; so an `end_epoch` that is the end of training
is reached, which SparseML's own wrapper around the optimizer, one step late, does not do.

SparseML reads the recipe, keeps the schedule and chooses the masks. It lives in its own extra and environment
(`make sparseml`) and is imported only when a run asks for it.
"""

import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor, nn

from training.errors import CheckpointError, ConfigError
from training.sparsity.masks import gradient_of, maskable_weights, moments_of, zero_outside

SUPPORTED = ("EpochRangeModifier", "GMPruningModifier", "GlobalMagnitudePruningModifier", "MagnitudePruningModifier")
"""Modifiers of a recipe that work here."""

REASONS = {
    "quantization": "SparseML's does not run with this PyTorch; `neurotrails export` quantizes instead",
    "learningrate": "the section `optimizer` of the run's recipe sets the learning rate",
    "lr": "the section `optimizer` of the run's recipe sets the learning rate",
}
"""Part of a modifier's name -> why it is refused."""


class GradualPruning:
    """Masks that follow a recipe; a `Sparsifier`. They only lose weights, unless the recipe ends them.

    Weights outside the masks are zero, and so are their optimizer moments, after every public call.
    """

    def __init__(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, recipe: Path, steps_per_epoch: int, epochs: int
    ) -> None:
        """Read the recipe and prune to its first sparsity if it starts at epoch 0.

        Raises ConfigError when SparseML is not installed, or the recipe is not one that works here.
        """
        self.network, self.optimizer, self.steps_per_epoch = network, optimizer, steps_per_epoch
        self.recipe = _read(recipe)
        manager_class, logger_class = _sparseml()
        # Without a logger of its own, SparseML writes files to sparse_logs/ in the working directory.
        silent = logger_class(logging.getLogger("sparseml"), enabled=False)
        try:
            self._manager = manager_class.from_yaml(str(recipe))
            self._manager.initialize(network, loggers=[silent])
        except Exception as error:  # SparseML raises whatever the recipe made it run into
            raise ConfigError(f"SparseML cannot use the pruning recipe {recipe}: {error}") from error
        pruned = {name: weight for modifier in self._modifiers() for name, weight in _pruned_weights(modifier)}
        allowed = maskable_weights(network, embeddings=True)
        if refused := sorted(set(pruned) - set(allowed)):
            raise ConfigError(
                f"The pruning recipe {recipe} prunes {', '.join(refused[:3])}; only weights of convolutions, linear "
                "layers and embeddings can be pruned. Name those in `params`, or use __ALL_PRUNABLE__."
            )
        for modifier in self._modifiers():
            if not max(modifier.start_epoch, 0) < modifier.end_epoch <= epochs:
                raise ConfigError(
                    f"The pruning recipe {recipe} prunes from epoch {modifier.start_epoch:g} to "
                    f"{modifier.end_epoch:g}, but the run has {epochs} epochs. "
                    "Let it end later than it starts, and within the run."
                )
        self.weights = maskable_weights(network, embeddings=False) | pruned
        self.ever_active = {name: torch.zeros_like(weight, dtype=torch.bool) for name, weight in pruned.items()}
        self.masks: dict[str, Tensor] = {}
        self._prune(0)
        self._adopt()

    @property
    def settled(self) -> bool:
        """Whether the density is the final one."""
        return all(modifier.ended for modifier in self._modifiers())

    def kept(self) -> dict[str, int]:
        """Active weights by layer: of all convolutions and linear layers, and of whatever else is pruned."""
        return self.sizes() | {name: int(mask.sum()) for name, mask in self.masks.items()}

    def ever_kept(self) -> dict[str, int]:
        """Weights that were ever active by layer; all of them unless pruned before the first step."""
        return self.sizes() | {name: int(ever.sum()) for name, ever in self.ever_active.items()}

    def sizes(self) -> dict[str, int]:
        """Weights by layer, for all covered layers."""
        return {name: weight.numel() for name, weight in self.weights.items()}

    def rates(self, step: int) -> dict[str, float]:
        """Nothing: between updates no weight comes or goes."""
        del step
        return {}

    def needs_dense_gradients(self, step: int) -> bool:
        """No: pruning looks at weights only."""
        del step
        return False

    @torch.no_grad()
    def after_backward(self, step: int) -> None:
        """Set the gradients of pruned weights to zero."""
        self._manager.optimizer_pre_step(self.network, self.optimizer, self._epoch(step), self.steps_per_epoch)
        for name, mask in self.masks.items():
            gradient_of(self.weights[name]).mul_(mask)

    def after_step(self, step: int) -> dict[str, float] | None:
        """Keep pruned weights at zero, and prune more where the recipe says so."""
        self._manager.optimizer_post_step(self.network, self.optimizer, self._epoch(step), self.steps_per_epoch)
        before = self.density
        if not self._prune(step + 1):
            return None
        return {"moved": 0, "prune_rate": max(0.0, 1 - self.density / before), "density": self.density}

    def capture(self) -> dict[str, NDArray[np.generic]]:
        """The recipe, each modifier's place in its schedule and its masks, and what was ever active."""
        arrays: dict[str, NDArray[np.generic]] = {"recipe": np.frombuffer(self.recipe.encode(), dtype=np.uint8).copy()}
        for index, modifier in enumerate(self._modifiers()):
            arrays[f"{index}.schedule"] = np.array(
                [modifier._started, modifier._ended, modifier._last_update_epoch, modifier.module_masks.enabled],
                dtype=np.float64,
            )
            for name, mask in modifier.state_dict().items():
                arrays[f"{index}.{name}"] = _packed(mask)
        return arrays | {f"ever_active.{name}": _packed(ever) for name, ever in self.ever_active.items()}

    def restore(self, step: int, masks: dict[str, Tensor], arrays: dict[str, NDArray[np.generic]]) -> None:
        """Go on as after `step` steps. Raises CheckpointError for another recipe, KeyError when something is missing.

        `masks` is not needed: the masks of each modifier are in `arrays`, and together they are the same.
        """
        del step, masks
        if arrays["recipe"].tobytes().decode() != self.recipe:
            raise CheckpointError(
                "The pruning recipe has changed since this run began. Bring back the recipe, or start a new run."
            )
        for index, modifier in enumerate(self._modifiers()):
            started, ended, last_update_epoch, enabled = arrays[f"{index}.schedule"].tolist()
            # SparseML offers no way to set these four; its version is pinned, and it is its last.
            modifier._started, modifier._ended = bool(started), bool(ended)
            modifier._last_update_epoch = last_update_epoch
            modifier.module_masks.enabled = bool(enabled)
            fresh = modifier.state_dict()
            modifier.load_state_dict({name: _unpacked(arrays[f"{index}.{name}"], mask) for name, mask in fresh.items()})
        self.ever_active = {
            name: _unpacked(arrays[f"ever_active.{name}"], ever) for name, ever in self.ever_active.items()
        }
        self._adopt()

    def _prune(self, done: int) -> bool:
        """Let SparseML change its masks if that is due after `done` steps, and say whether it was."""
        epoch = self._epoch(done)
        if not any(modifier.update_ready(epoch, self.steps_per_epoch) for modifier in self._modifiers()):
            return False
        self._manager.update(self.network, self.optimizer, epoch, self.steps_per_epoch, log_updates=False)
        self._adopt()
        return True

    @torch.no_grad()
    def _adopt(self) -> None:
        """Take SparseML's masks over. Where several modifiers mask a weight, all of them count."""
        combined: dict[str, Tensor] = {}
        for modifier in self._modifiers():
            if modifier.module_masks.enabled:  # not before its start, nor after its end without `leave_enabled`
                for saved_name, mask in modifier.state_dict().items():
                    name = saved_name.removesuffix(".sparsity_mask")
                    combined[name] = mask.bool() & combined.get(name, torch.ones_like(mask, dtype=torch.bool))
        self.masks = {name: mask for name, mask in combined.items() if not bool(mask.all())}
        for name, mask in self.masks.items():
            for tensor in (self.weights[name], *moments_of(self.optimizer, self.weights[name])):
                zero_outside(tensor, mask)
        for name, ever in self.ever_active.items():
            ever |= self.masks.get(name, torch.ones_like(ever))
        total = sum(self.sizes().values())
        self.density, self.explored = sum(self.kept().values()) / total, sum(self.ever_kept().values()) / total

    def _epoch(self, step: int) -> float:
        return step / self.steps_per_epoch

    def _modifiers(self) -> Iterator[Any]:
        """The pruning modifiers, in the order of the recipe."""
        return (modifier for modifier in self._manager.iter_modifiers() if hasattr(modifier, "module_masks"))


def _read(recipe: Path) -> str:
    """Text of a recipe whose modifiers all work here; looked at before SparseML makes objects of it."""
    if recipe.suffix != ".yaml" or not recipe.is_file():
        raise ConfigError(f"pruning_recipe must be a file that ends in .yaml; there is no such file {recipe}.")
    text = recipe.read_text()
    try:
        modifiers = list(_objects(yaml.compose(text, Loader=yaml.SafeLoader)))
    except yaml.YAMLError as error:
        raise ConfigError(f"The pruning recipe {recipe} is not YAML: {error}") from error
    for modifier in modifiers:
        name = modifier.tag.removeprefix("!")
        if name not in SUPPORTED:
            reason = next((why for part, why in REASONS.items() if part in name.lower()), "it prunes in another way")
            raise ConfigError(
                f"The pruning recipe {recipe} holds a {name}, which is not supported: {reason}. "
                f"Take it out; these work: {', '.join(SUPPORTED)}."
            )
        if isinstance(modifier, yaml.MappingNode) and modifier.flow_style:
            raise ConfigError(
                f"The pruning recipe {recipe} holds a {name} in braces, which SparseML does not read. "
                "Write each of its properties on a line of its own."
            )
    if not any("Pruning" in modifier.tag for modifier in modifiers):
        raise ConfigError(f"The pruning recipe {recipe} prunes nothing; it needs a MagnitudePruningModifier.")
    return text


def _objects(node: yaml.Node | None) -> Iterator[yaml.Node]:
    """All objects (`!Name`) in a YAML document."""
    if node is None:
        return
    if node.tag.startswith("!"):
        yield node
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _objects(item)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _objects(key)
            yield from _objects(value)


def _sparseml() -> tuple[Any, Any]:
    """SparseML's manager of recipes and its logger. Raises ConfigError when it is not installed."""
    os.environ["NM_DISABLE_ANALYTICS"] = "True"  # read at import: SparseML would phone home
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of what it imports; nobody maintains it any more
            from sparseml.pytorch.optim import ScheduledModifierManager
            from sparseml.pytorch.utils import PythonLogger
    except ModuleNotFoundError as error:
        if error.name not in ("sparseml", "pkg_resources"):
            raise
        raise ConfigError(
            "method gradual_pruning needs SparseML: make sparseml builds an environment that holds it, .venv-sparseml"
        ) from error
    return ScheduledModifierManager, PythonLogger


def _pruned_weights(modifier: Any) -> Iterator[tuple[str, nn.Parameter]]:
    """Names and parameters that a modifier prunes."""
    masks = modifier.module_masks
    for layer, layer_name, name in zip(masks.layers, masks.layer_names, masks.param_names, strict=True):
        yield f"{layer_name}.{name}", getattr(layer, name)


def _packed(mask: Tensor) -> NDArray[np.uint8]:
    return np.packbits(mask.bool().cpu().numpy())


def _unpacked(bits: NDArray[np.generic], like: Tensor) -> Tensor:
    flat = np.unpackbits(bits.view(np.uint8), count=like.numel())
    return torch.from_numpy(flat).view(like.shape).to(device=like.device, dtype=like.dtype)
