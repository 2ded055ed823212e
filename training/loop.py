"""The training loop of every method: sparse training of a multi-head network (arXiv 2505.17909, section 3).

`Trainer.run` is the whole method on one screen; everything it calls is a function of the step, so that a run that was
killed and resumed ends with the same bytes as one that was not. Under torchrun every process runs it on its share of
each batch; all of them hold the same weights and masks, and the first one writes.
"""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from runtime.files import atomic_folder, atomic_write
from training.batches import Batch, Batches
from training.checkpoint import (
    Checkpoint,
    Progress,
    RunDescription,
    pack,
    read_progress,
    read_tensors,
    snapshot_folder,
    unpack,
    write_checkpoint,
)
from training.devices import explain, launch
from training.errors import CheckpointError, TrainingError
from training.evaluate import collect_logits
from training.macs import StepCost
from training.metrics import measure
from training.models.multihead import MultiHeadNetwork
from training.optimization import build_optimizer, learning_rate
from training.plan import build_sparsifier, cycles_of
from training.state import capture, restore

LOG_EVERY = 20
"""Steps between two lines of kind `step` in metrics.jsonl."""


class Trainer:
    """One run: network, sparsity, optimizer and where it stands."""

    def __init__(self, run: Path, description: RunDescription, fit: Batches, select: Batches, tokenizer: str | None):
        self.run_folder, self.description = run, description
        self.fit, self.select, self.tokenizer = fit, select, tokenizer
        self.config = config = description.config
        self.fabric = launch(config)
        self.network: MultiHeadNetwork = description.network().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.step_cost = StepCost(self.network, description.preprocessing)
        self.optimizer = build_optimizer(self.network, config.optimizer)
        forward = torch.compile(self.network) if config.compile else self.network
        self.model, self.stepper = self.fabric.setup(forward, self.optimizer)  # type: ignore[arg-type]
        self.sparsity = build_sparsifier(config, self.network, self.optimizer, len(fit))
        self.steps = config.epochs * len(fit)
        self.cycles = cycles_of(config, len(fit))
        self.progress = Progress(
            threads=config.threads, processes=self.fabric.world_size, device=self.fabric.device.type
        )
        self.metrics: dict[str, Any] = {}

    def run(self) -> None:
        """Train to the end, from wherever `progress` stands. Raises TrainingError."""
        progress, config = self.progress, self.config
        quiet = not self.fabric.is_global_zero
        share = {"rank": self.fabric.global_rank, "world": self.fabric.world_size}
        with tqdm(total=self.steps, initial=progress.step, unit="step", desc=config.name, disable=quiet) as bar:
            while progress.epoch < config.epochs:
                self.network.train()
                for batch in self.fit.shuffled(config.seed, progress.epoch, progress.batch, config.augment, **share):
                    loss = self.step(batch)
                    progress.step += 1
                    progress.batch += 1
                    bar.update()
                    if progress.step % LOG_EVERY == 0:
                        bar.set_postfix(epoch=progress.epoch + 1, loss=f"{loss:.3f}")
                        self.log_step(loss)
                    if progress.step % config.checkpoint_every == 0 and progress.batch < len(self.fit):
                        self.save()
                progress.epoch, progress.batch = progress.epoch + 1, 0
                progress.finished = progress.epoch == config.epochs
                self.evaluate()
                bar.write(f"epoch {progress.epoch}: select accuracy {self.metrics['accuracy']:.4f}")
                self.save()

    def step(self, batch: Batch) -> float:
        """One optimizer step, with a mask update after it where one is due; returns the loss over all processes."""
        step, config = self.progress.step, self.config
        rate = learning_rate(config.optimizer, *self.cycles.place(step))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        dense = self.sparsity.needs_dense_gradients(step)
        self.progress.training_macs += self.step_cost(self.sparsity, rows=len(batch), dense_gradients=dense)
        try:
            loss = self.gradients(batch)
            if not torch.isfinite(loss):
                raise self.diverged(f"The loss became {loss.item()}")
            self.sparsity.after_backward(step)
            if config.clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(self.network.parameters(), config.clip_norm)
            self.stepper.step()
            update = self.sparsity.after_step(step)
        except (RuntimeError, MemoryError) as error:
            explained = explain(error, step, config)
            if explained is None:
                raise
            raise explained from error
        if update is not None:
            self.step_cost.forget()
            self.log("update", step=step + 1, **update)
        return float(loss)

    def gradients(self, batch: Batch) -> Tensor:
        """Gradients of the mean loss over the whole batch, in every process; returns that loss.

        Each process takes its rows in `accumulate` pieces, weighted by their rows: a batch may not divide evenly.
        """
        world, rank = self.fabric.world_size, self.fabric.global_rank
        pieces = max(1, min(self.config.accumulate, len(batch) // world))
        self.optimizer.zero_grad()
        total = torch.zeros((), device=self.fabric.device, dtype=torch.float64)
        for piece in range(pieces):
            rows = batch.shard(rank + world * piece, world * pieces)
            share = len(rows) * world / len(batch)
            # Every process must take part in the sum of gradients, also one for which the last batch has no row.
            rows = (rows if len(rows) else batch.shard(0, len(batch))).on(self.fabric.device)
            with self.fabric.no_backward_sync(self.model, enabled=piece + 1 < pieces):
                loss = self.loss(self.model(*rows.inputs), rows.targets) * share
                self.fabric.backward(loss)
            total += loss.detach()
        mean = self.fabric.all_reduce(total, reduce_op="mean")
        assert isinstance(mean, Tensor)
        return mean

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean over heads of the cross entropy, logits [H, B, K], targets [B]."""
        heads = len(logits)
        smoothing = self.config.label_smoothing
        return functional.cross_entropy(logits.flatten(0, 1), targets.repeat(heads), label_smoothing=smoothing)

    def diverged(self, what: str) -> TrainingError:
        """The error of a run whose numbers are no longer numbers."""
        return TrainingError(
            f"{what} at step {self.progress.step}. Lower optimizer.lr or set clip_norm; the last checkpoint in "
            f"{self.run_folder} is intact."
        )

    def evaluate(self) -> None:
        """Measure on the select part and remember the best step of the final density."""
        for buffer in self.network.buffers():  # batch statistics are each rank's own; the first one's count
            buffer.copy_(self.fabric.broadcast(buffer))
        measured: dict[str, Any] = {}
        if self.fabric.is_global_zero:
            logits = collect_logits(self.network, self.select)
            measured = measure(logits, self.select.examples.targets, split="select").model_dump()
        measured = self.fabric.broadcast(measured)
        progress = self.progress
        self.metrics = {"step": progress.step, "epoch": progress.epoch, **measured}
        kept, ever = self.sparsity.kept(), self.sparsity.ever_kept()
        layers = {name: [kept[name], ever[name], size] for name, size in self.sparsity.sizes().items()}
        self.log("evaluation", **self.metrics, layers=layers)
        if self.sparsity.settled and measured["accuracy"] >= progress.best_accuracy:
            progress.best_step, progress.best_accuracy = progress.step, measured["accuracy"]

    def log_step(self, loss: float) -> None:
        """Append what changes with the step."""
        step = self.progress.step
        self.log(
            "step",
            loss=loss,
            lr=self.optimizer.param_groups[0]["lr"],
            density=self.sparsity.density,
            explored=self.sparsity.explored,
            **self.sparsity.rates(step),
        )

    def log(self, kind: str, **values: Any) -> None:
        """Append one line to metrics.jsonl. Raises TrainingError."""
        if not self.fabric.is_global_zero:
            return
        line = {"kind": kind, "step": self.progress.step, "time": round(time.time(), 3), **values}
        try:
            with (self.run_folder / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise self.unwritable(error) from error

    def save(self) -> None:
        """Write a checkpoint, and a snapshot of it at the end of a cycle. Raises TrainingError."""
        if not all(bool(torch.isfinite(parameter).all()) for parameter in self.network.parameters()):
            raise self.diverged("A weight became infinite or NaN")
        state = capture(self.network, self.optimizer, self.sparsity, self.fabric)
        if self.fabric.is_global_zero:
            try:
                folder = write_checkpoint(
                    self.run_folder,
                    self.description,
                    self.progress,
                    model=pack(self.network.state_dict(), self.sparsity.masks),
                    state=state,
                    metrics=self.metrics,
                    tokenizer=self.tokenizer,
                )
                if self.ends_cycle:
                    self.keep_snapshot(folder)
            except (OSError, SafetensorError) as error:
                raise self.unwritable(error) from error
        self.fabric.barrier()

    @property
    def ends_cycle(self) -> bool:
        """Whether `progress` stands at the end of a cycle of a run that keeps snapshots."""
        return self.config.cycles > 1 and self.progress.batch == 0 and self.progress.epoch in self.cycles.ends()

    def keep_snapshot(self, checkpoint: Path) -> None:
        """Copy a checkpoint to where the snapshot of its cycle belongs; one of a killed run is replaced."""
        folder = snapshot_folder(self.run_folder, self.cycles.ends().index(self.progress.epoch))
        shutil.rmtree(folder, ignore_errors=True)
        with atomic_folder(folder) as partial:
            shutil.copytree(checkpoint, partial, dirs_exist_ok=True)

    def unwritable(self, error: Exception) -> TrainingError:
        """The error of a disk that is full or gone."""
        return TrainingError(
            f"{self.run_folder} cannot be written at step {self.progress.step}: {error}. The last checkpoint is "
            "intact; make room and go on with --resume."
        )

    def resume(self, folder: Path, *, elsewhere: bool = False) -> None:
        """Continue from a checkpoint. Raises CheckpointError when it belongs to another configuration.

        `elsewhere` accepts another number of threads or processes, or another kind of device.
        """
        saved = Checkpoint.open(folder)
        wanted = self.description.model_copy(update={"command": saved.description.command})
        if saved.description != wanted:
            raise CheckpointError(_difference(folder, saved.description, wanted))
        self.description = saved.description
        before, here = read_progress(folder), self.progress
        places = [(each.threads, each.processes, each.device) for each in (before, here)]
        if places[0] != places[1] and not elsewhere:
            told = ["{} threads, {} process(es), {}".format(*place) for place in places]
            raise CheckpointError(
                f"{folder} was trained with {told[0]}; with {told[1]} the result would differ in its last bits. "
                "Set them to match, or pass --elsewhere to accept that."
            )
        self.progress = before.model_copy(
            update={"threads": here.threads, "processes": here.processes, "device": here.device}
        )
        tensors, masks = unpack(read_tensors(folder / "model.safetensors"))
        self.network.load_state_dict(tensors)
        arrays = read_tensors(folder / "state.safetensors")
        restore(arrays, self.network, self.optimizer, self.sparsity, masks, before.step, self.fabric)
        self.metrics = saved.metrics
        if self.fabric.is_global_zero:
            self._drop_later_metrics()
            if self.ends_cycle:  # the run may have been killed between its checkpoint and the snapshot
                self.keep_snapshot(folder)
        self.fabric.barrier()

    def _drop_later_metrics(self) -> None:
        """Forget lines of metrics.jsonl beyond the checkpoint: those steps are done again."""
        path = self.run_folder / "metrics.jsonl"
        if path.exists():
            lines = [line for line in path.read_text().splitlines() if _step_of(line) <= self.progress.step]
            atomic_write(path, "".join(f"{line}\n" for line in lines).encode())


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
