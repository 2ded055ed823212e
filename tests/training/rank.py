"""One process of a run under torchrun: trains a tiny network with layer norms and writes what it ends with.

torchrun --nproc-per-node 2 tests/training/rank.py RECIPE RUN OUT [OVERRIDES]     # writes OUT/rank-0.safetensors, ...
"""

import os
import sys
from pathlib import Path

from safetensors.torch import save_file

from training.batches import Batches
from training.config import load_config
from training.loop import Trainer
from training.preparation import EVALUATION_BATCH, prepare


def main(recipe: str, run: str, out: str, *overrides: str) -> None:
    """Train to the end and write weights, buffers, masks and optimizer moments of this process."""
    config = load_config(recipe, overrides)
    data = prepare(config, "")
    fit = Batches(data.parts.fit, data.preprocessor, config.batch_size)
    select = Batches(data.parts.select, data.preprocessor, EVALUATION_BATCH)
    Path(run).mkdir(parents=True, exist_ok=True)
    trainer = Trainer(Path(run), data.description, fit, select, data.tokenizer)
    trainer.run()
    tensors = {f"network.{name}": tensor.contiguous() for name, tensor in trainer.network.state_dict().items()}
    tensors |= {f"mask.{name}": mask.contiguous() for name, mask in trainer.sparsity.masks.items()}
    for name, parameter in trainer.network.named_parameters():
        state = trainer.optimizer.state[parameter]
        tensors |= {f"{key}.{name}": value.contiguous() for key, value in state.items() if value.shape}
    save_file(tensors, Path(out) / f"rank-{os.environ.get('RANK', '0')}.safetensors")


if __name__ == "__main__":
    main(*sys.argv[1:])
