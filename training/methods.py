"""The methods: what each one trains, in terms of one loop.

| method | networks that are trained | sparsity |
|---|---|---|
| neurotrails | one: trunk and heads | dynamic (arXiv 2505.17909) |
| treenet | one: trunk and heads | none (arXiv 1511.06314) |
| static_sparse | one: trunk and heads | random masks that never change |
| dense | one, with one head and no trunk | none |
| full_ensemble | M times dense, each with its own seed and data order | none |
| dst_ensemble | M times one network with one head | dynamic (arXiv 2106.14568) |
| edst_ensemble | one with one head, in M cycles; a snapshot of each is a member | dynamic (arXiv 2106.14568) |
| gradual_pruning | one: trunk and heads | by a SparseML recipe, from dense (arXiv 1710.01878) |

The members of an ensemble end as one network without trunk, one head for each member.
"""

from training.config import EnsembleConfig, TrainConfig

ALONE = EnsembleConfig(heads=1, blocks_in_head="all")
SEEDS_APART = 1_000_003
"""Between the seeds of two members: no member of a run shares the seed of a neighbouring run."""


def topology(config: TrainConfig) -> EnsembleConfig:
    """How the finished network of a run is split."""
    match config.method:
        case "dense":
            return ALONE
        case "full_ensemble" | "dst_ensemble" | "edst_ensemble":
            return EnsembleConfig(heads=config.ensemble.heads, blocks_in_head="all")
        case _:
            return config.ensemble


def member_configs(config: TrainConfig) -> tuple[TrainConfig, ...]:
    """Runs that an ensemble of separate networks consists of; empty where one network is trained."""
    heads = config.ensemble.heads
    match config.method:
        case "full_ensemble":
            return tuple(_member(config, index, "dense") for index in range(heads))
        case "dst_ensemble":
            return tuple(_member(config, index, "neurotrails") for index in range(heads))
        case "edst_ensemble":
            return (_member(config, 0, "neurotrails", cycles=heads),)
        case _:
            return ()


def is_dense(config: TrainConfig) -> bool:
    """Whether no weight is ever masked."""
    return config.method in ("dense", "full_ensemble", "treenet") or config.sparsity.density == 1


def _member(config: TrainConfig, index: int, method: str, cycles: int = 1) -> TrainConfig:
    values = {
        **config.model_dump(),
        "name": f"{config.name}-{index}",
        "method": method,
        "ensemble": ALONE.model_dump(),
        "seed": config.seed + index * SEEDS_APART,
        "split_seed": config.seed if config.split_seed is None else config.split_seed,
        "cycles": cycles,
    }
    return TrainConfig.model_validate(values)
