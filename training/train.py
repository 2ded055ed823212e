"""The verb `train`.

neurotrails train recipes/fashion-mnist.yaml epochs=1 --run runs/first
neurotrails train recipes/fashion-mnist.yaml method=full_ensemble --run runs/ensemble
"""

import os
import shlex
import sys
from pathlib import Path

from training.batches import Batches
from training.checkpoint import RunDescription, all_checkpoints
from training.config import load_config
from training.ensemble import assemble, member_folder
from training.errors import CheckpointError
from training.loop import Trainer
from training.methods import member_configs
from training.models.registry import load_networks
from training.preparation import EVALUATION_BATCH, prepare
from training.sparsity.masks import uncovered_weights


def train(
    recipe: str,
    *overrides: str,
    run: str,
    resume: bool = False,
    elsewhere: bool = False,
    networks: tuple[str, ...] = (),
) -> None:
    """Train a sparse multi-head network, or what it is compared with.

    Args:
        recipe: YAML recipe, such as recipes/fashion-mnist.yaml.
        overrides: Changes to the recipe, such as epochs=1, sparsity.density=0.1 or method=full_ensemble.
        run: Folder of the run; checkpoints and metrics.jsonl are written there.
        resume: Go on from the newest checkpoint in the run folder.
        elsewhere: Resume with other threads, processes or devices; the result then differs in its last bits.
        networks: Python files that register networks of your own, for `network: {kind: custom, name: ...}`.
    """
    load_networks(networks)
    config = load_config(recipe, overrides)
    folder = Path(run)
    if not resume and (all_checkpoints(folder) or (folder / "members").exists()):
        raise CheckpointError(f"{folder} holds a run already. Pass --resume to go on with it, or name another folder.")
    files = [word for file in networks for word in ("--networks", file)]
    data = prepare(config, shlex.join(["neurotrails", "train", recipe, *overrides, "--run", run, *files]))
    fit = Batches(data.parts.fit, data.preprocessor, config.batch_size)
    select = Batches(data.parts.select, data.preprocessor, EVALUATION_BATCH)
    members = member_configs(config)
    for index, member in enumerate(members):
        own = data.description.model_copy(update={"config": member})
        train_one(member_folder(folder, index), own, fit, select, data.tokenizer, elsewhere=elsewhere)
    if not members:
        train_one(folder, data.description, fit, select, data.tokenizer, elsewhere=elsewhere)
    elif not all_checkpoints(folder) and os.environ.get("RANK", "0") == "0":  # the first process of torchrun writes
        assemble(folder, data.description, select, data.tokenizer)


def train_one(
    run: Path, description: RunDescription, fit: Batches, select: Batches, tokenizer: str | None, *, elsewhere: bool
) -> None:
    """Train one network to the end, from its newest checkpoint if there is one."""
    checkpoints = all_checkpoints(run)
    run.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(run, description, fit, select, tokenizer)
    if checkpoints:
        trainer.resume(checkpoints[-1], elsewhere=elsewhere)
    if trainer.fabric.is_global_zero:
        kept, sizes = sum(trainer.sparsity.kept().values()), sum(trainer.sparsity.sizes().values())
        print(f"{description.config.name}: {kept:,} of {sizes:,} weights kept, {trainer.steps} steps.", file=sys.stderr)
        if uncovered := list(uncovered_weights(trainer.network)):
            more = f" and {len(uncovered) - 5} more" if len(uncovered) > 5 else ""
            print(f"Dense, of layers that masks do not cover: {', '.join(uncovered[:5])}{more}", file=sys.stderr)
    trainer.run()
