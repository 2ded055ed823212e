"""The training loop: dynamic sparse training of a multi-head network (arXiv 2505.17909, section 3).

`Trainer.run` is the whole method on one screen; everything it calls is a function of the step, so that a run that was
killed and resumed ends with the same bytes as one that was not.
"""

import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from training.batches import Batch, Batches
from training.checkpoint import (
    Checkpoint,
    Progress,
    RunDescription,
    pack,
    read_progress,
    read_tensors,
    unpack,
    write_checkpoint,
)
from training.errors import CheckpointError, TrainingError
from training.evaluate import collect_logits
from training.metrics import measure
from training.models.multihead import MultiHeadNetwork
from training.optimization import build_optimizer, learning_rate
from training.sparsity.masks import Masks
from training.sparsity.schedule import CosineSchedule
from training.state import adopt_masks, capture, restore


class Trainer:
    """One run: network, masks, optimizer and where it stands."""

    def __init__(self, run: Path, description: RunDescription, fit: Batches, select: Batches, tokenizer: str | None):
        self.run_folder, self.description = run, description
        self.fit, self.select, self.tokenizer = fit, select, tokenizer
        self.config = config = description.config
        torch.set_num_threads(config.threads)
        torch.use_deterministic_algorithms(True)
        torch.manual_seed(config.seed)
        self.network: MultiHeadNetwork = description.network().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        generator = torch.Generator().manual_seed(config.seed)
        sparsity = config.sparsity
        self.masks = Masks.erk(self.network, sparsity.density, embeddings=sparsity.embeddings, generator=generator)
        self.optimizer = build_optimizer(self.network, config.optimizer)
        self.steps = config.epochs * len(fit)
        self.prune_rate = CosineSchedule(sparsity.prune_rate, sparsity.prune_rate_end, self.steps)
        self.progress = Progress(threads=config.threads)
        self.metrics: dict[str, Any] = {}

    def run(self) -> None:
        """Train to the end, from wherever `progress` stands."""
        progress, config = self.progress, self.config
        with tqdm(total=self.steps, initial=progress.step, unit="step", desc=config.name) as bar:
            while progress.epoch < config.epochs:
                self.network.train()
                for batch in self.fit.shuffled(config.seed, progress.epoch, progress.batch, config.augment):
                    loss = self.step(batch)
                    progress.step += 1
                    progress.batch += 1
                    bar.update()
                    if progress.step % 20 == 0:
                        bar.set_postfix(epoch=progress.epoch + 1, loss=f"{loss:.3f}")
                        self.log(loss=loss, prune_rate=self.prune_rate(progress.step), explored=self.masks.explored)
                    if progress.step % config.checkpoint_every == 0 and progress.batch < len(self.fit):
                        self.save()
                progress.epoch, progress.batch = progress.epoch + 1, 0
                progress.finished = progress.epoch == config.epochs
                self.evaluate()
                bar.write(f"epoch {progress.epoch}: select accuracy {self.metrics['accuracy']:.4f}")
                self.save()

    def step(self, batch: Batch) -> float:
        """One optimizer step, with a mask update after it where one is due; returns the loss."""
        progress, sparsity = self.progress, self.config.sparsity
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config.optimizer, progress.step, self.steps)
        logits = self.network(*batch.inputs)  # [H, B, K]
        loss = self.loss(logits, batch.targets)
        if not torch.isfinite(loss):
            raise TrainingError(
                f"The loss became {loss.item()} at step {progress.step}. Lower optimizer.lr or set clip_norm; "
                f"the last checkpoint in {self.run_folder} is intact."
            )
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        done = progress.step + 1
        due = done % sparsity.update_every == 0 and done <= sparsity.stop_at * self.steps and done < self.steps
        dense = self.masks.dense_gradients() if due else {}
        self.masks.mask_gradients()
        if self.config.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip_norm)
        self.optimizer.step()
        self.masks.apply()
        if due:
            self.masks.update(self.prune_rate(done), sparsity.regrow, dense, self.optimizer)
        return loss.item()

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean over heads of the cross entropy, logits [H, B, K], targets [B]."""
        heads = len(logits)
        smoothing = self.config.label_smoothing
        return functional.cross_entropy(logits.flatten(0, 1), targets.repeat(heads), label_smoothing=smoothing)

    def evaluate(self) -> None:
        """Measure on the select part and remember the best step."""
        logits = collect_logits(self.network, self.select)
        metrics = measure(logits, self.select.examples.targets, split="select")
        self.metrics = {"step": self.progress.step, "epoch": self.progress.epoch, **metrics.model_dump()}
        self.log(**self.metrics)
        if metrics.accuracy >= self.progress.best_accuracy:
            self.progress.best_step, self.progress.best_accuracy = self.progress.step, metrics.accuracy

    def log(self, **values: Any) -> None:
        """Append one line to metrics.jsonl."""
        line = {"step": self.progress.step, "time": round(time.time(), 3), **values}
        with (self.run_folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    def save(self) -> None:
        """Write a checkpoint."""
        write_checkpoint(
            self.run_folder,
            self.description,
            self.progress,
            model=pack(self.network.state_dict(), self.masks.masks),
            state=capture(self.network, self.optimizer, self.masks),
            metrics=self.metrics,
            tokenizer=self.tokenizer,
        )

    def resume(self, folder: Path, *, other_threads: bool = False) -> None:
        """Continue from a checkpoint. Raises CheckpointError when it belongs to another configuration."""
        saved = Checkpoint.open(folder)
        wanted = self.description.model_copy(update={"command": saved.description.command})
        if saved.description != wanted:
            raise CheckpointError(_difference(folder, saved.description, wanted))
        self.description = saved.description
        self.progress = read_progress(folder)
        if self.progress.threads != torch.get_num_threads() and not other_threads:
            raise CheckpointError(
                f"{folder} was trained with {self.progress.threads} threads; with {torch.get_num_threads()} the result "
                "would differ in its last bits. Set threads to match, or pass --other-threads to accept that."
            )
        tensors, masks = unpack(read_tensors(folder / "model.safetensors"))
        adopt_masks(self.masks, masks)
        self.network.load_state_dict(tensors)
        restore(read_tensors(folder / "state.safetensors"), self.network, self.optimizer, self.masks)
        self.metrics = saved.metrics
        self._drop_later_metrics()

    def _drop_later_metrics(self) -> None:
        """Forget lines of metrics.jsonl beyond the checkpoint: those steps are done again."""
        path = self.run_folder / "metrics.jsonl"
        if path.exists():
            lines = [line for line in path.read_text().splitlines() if _step_of(line) <= self.progress.step]
            path.write_text("".join(f"{line}\n" for line in lines))


def _step_of(line: str) -> float:
    try:
        return int(json.loads(line)["step"])
    except ValueError:  # the last line of a killed run may be cut off
        return float("inf")


def _difference(folder: Path, saved: RunDescription, wanted: RunDescription) -> str:
    before, after = _flat(saved.model_dump(mode="json")), _flat(wanted.model_dump(mode="json"))
    changed = [f"{key}: {before.get(key)!r} there, {after.get(key)!r} here" for key in before | after
               if before.get(key) != after.get(key)]  # fmt: skip
    return f"{folder} belongs to another run: {'; '.join(changed[:5])}. Use another run folder, or its own settings."


def _flat(document: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(document, dict):
        return {prefix: document}
    return {name: value for key, inner in document.items() for name, value in _flat(inner, f"{prefix}.{key}").items()}
