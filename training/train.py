"""The verb `train`.

neurotrails train recipes/fashion-mnist.yaml epochs=1 --run runs/first
"""

import shlex
import sys
from pathlib import Path

from training.batches import Batches
from training.checkpoint import all_checkpoints
from training.config import load_config
from training.errors import CheckpointError
from training.loop import Trainer
from training.preparation import EVALUATION_BATCH, prepare


def train(recipe: str, *overrides: str, run: str, resume: bool = False, other_threads: bool = False) -> None:
    """Train a sparse multi-head network.

    Args:
        recipe: YAML recipe, such as recipes/fashion-mnist.yaml.
        overrides: Changes to the recipe, such as epochs=1 or sparsity.density=0.1.
        run: Folder of the run; checkpoints and metrics.jsonl are written there.
        resume: Go on from the newest checkpoint in the run folder.
        other_threads: Resume although the number of threads differs; the result then differs in its last bits.
    """
    config = load_config(recipe, overrides)
    folder = Path(run)
    checkpoints = all_checkpoints(folder)
    if checkpoints and not resume:
        raise CheckpointError(f"{folder} holds a run already. Pass --resume to go on with it, or name another folder.")
    data = prepare(config, shlex.join(["neurotrails", "train", recipe, *overrides, "--run", run]))
    fit = Batches(data.parts.fit, data.preprocessor, config.batch_size)
    select = Batches(data.parts.select, data.preprocessor, EVALUATION_BATCH)
    folder.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(folder, data.description, fit, select, data.tokenizer)
    if checkpoints:
        trainer.resume(checkpoints[-1], other_threads=other_threads)
    weights = sum(trainer.masks.kept().values())
    total = sum(weight.numel() for weight in trainer.masks.weights.values())
    print(f"{config.name}: {weights:,} of {total:,} weights kept, {trainer.steps:,} steps.", file=sys.stderr)
    trainer.run()
