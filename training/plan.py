"""From configuration to sparsity: which method makes the weights of a network sparse, and when."""

import torch
from torch import nn

from training.config import TrainConfig
from training.errors import ConfigError
from training.methods import is_dense
from training.sparsity.distribution import Distribution
from training.sparsity.dynamic import DynamicSparsity, Plan
from training.sparsity.gradual_pruning import GradualPruning
from training.sparsity.schedule import Cycles, DensityDecay, PruneRate
from training.sparsity.sparsifier import Sparsifier
from training.sparsity.update import UpdateRule


def cycles_of(config: TrainConfig, steps_per_epoch: int) -> Cycles:
    """Cycles of a run; one, unless snapshots are taken."""
    return Cycles(config.cycles, config.epochs, steps_per_epoch)


def build_sparsifier(
    config: TrainConfig, network: nn.Module, optimizer: torch.optim.Optimizer, steps_per_epoch: int
) -> Sparsifier:
    """What makes the network of a run sparse, with fresh masks. Raises ConfigError when the layers cannot be so sparse.

    `network` must be on its device already: masks are made there.
    """
    if config.pruning_recipe is not None:
        return GradualPruning(network, optimizer, config.pruning_recipe, steps_per_epoch, config.epochs)
    try:
        plan = build_plan(config, cycles_of(config, steps_per_epoch))
        return DynamicSparsity(network, optimizer, plan, config.seed)
    except ValueError as error:
        raise ConfigError(f"sparsity: {error}") from error


def build_plan(config: TrainConfig, cycles: Cycles) -> Plan:
    """Plan of dynamic sparse training. Raises ValueError when the last mask update comes before the final density."""
    sparsity = config.sparsity
    steps = cycles.epochs * cycles.steps_per_epoch
    final = 1.0 if is_dense(config) else sparsity.density
    still = final == 1.0 or config.method == "static_sparse"
    start = final if still or sparsity.initial_density is None else sparsity.initial_density
    density = DensityDecay(start, final, round(sparsity.decay_until * steps) if start != final else 0)

    def place(done: int) -> tuple[int, int]:
        """Steps of the cycle that are done after `done` steps of the run, and steps that it has."""
        behind, length = cycles.place(max(done - 1, 0))
        return behind + min(done, 1), length

    def due(done: int) -> bool:
        behind, length = place(done)
        return (
            not still and done % sparsity.update_every == 0 and behind <= sparsity.stop_at * length and behind < length
        )

    def prune_rate(done: int) -> float:
        behind, length = place(done)
        return PruneRate(sparsity.prune_rate, sparsity.prune_rate_end, length, sparsity.prune_schedule)(behind)

    if start != final and not any(due(done) for done in range(density.steps, steps)):
        raise ValueError(
            f"no mask update falls between the end of the density's decay (step {density.steps}) and the end of "
            "updates; lower decay_until or update_every"
        )
    return Plan(
        density=density,
        prune_rate=prune_rate,
        due=due,
        final_density=final,
        distribution=Distribution(sparsity.distribution, sparsity.scope, sparsity.layers if final < 1 else {}),
        granularity=sparsity.granularity,
        # Masks that never move need no running average of dense gradients.
        rule=UpdateRule() if still else UpdateRule(sparsity.prune, sparsity.regrow, sparsity.temperature),
        embeddings=sparsity.embeddings,
        gradient_average=sparsity.gradient_average,
    )
