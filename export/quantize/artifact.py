"""From an fp32 artifact and held-out data to an int8 artifact: ranges, graphs, calibration and metrics made anew.

Nothing is taken over from fp32 that its logits decided: temperatures, order of the heads, exit table and metrics come
from the logits of the int8 graphs, computed by ONNX Runtime.
"""

import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tqdm import tqdm

from export.errors import ExportRefused
from export.quantize.execution import GraphRunner, Graphs, Logits, StageGraph, Tensors
from export.quantize.qdq import quantizable
from export.quantize.ranges import collect_ranges
from export.quantize.report import MOST_LOSS, Comparison, compare_logits, paired_change
from export.quantize.sensitivity import (
    Ranges,
    Sensitivity,
    keep_the_most_sensitive,
    measure_sensitivity,
    quantize_graphs,
)
from runtime.artifact import Artifact, sha256_of
from runtime.files import atomic_folder
from runtime.graph import check_graph, stored_weights
from runtime.manifest import (
    MANIFEST,
    REFERENCE,
    Calibration,
    FileEntry,
    KeptLayer,
    LayerSparsity,
    Manifest,
    Quantization,
    RangeMethod,
    Sparsity,
    TextPreprocessing,
)
from runtime.parity import LOGITS, QUANTIZED_LOGITS
from runtime.preprocess import Preprocessor
from runtime.verify import read_reference
from runtime.vote import pool
from training.batches import Batches
from training.calibration import calibrate, early_exit_curve
from training.data import Examples
from training.metrics import measure

CALIBRATION_ROWS = 512
"""Rows of the calibrate part that ranges are taken from; twice as many move them little."""
SENSITIVITY_ROWS = 64
"""Rows of the calibrate part that the effect of each layer is measured on, where one has to stay fp32."""
BATCH = 32
"""Rows that are computed at once; while ranges are taken, all tensors of a stage are in memory."""


@dataclass(frozen=True)
class Evidence:
    """Held-out parts by name (calibrate, report and perhaps test), and what fp32 makes of them."""

    parts: Mapping[str, Examples]
    preprocessor: Preprocessor
    logits: Mapping[str, Logits]
    """fp32 logits [H, N, K] of each part, heads in the voting order of the fp32 artifact."""


def write_int8_artifact(
    source: Artifact,
    folder: Path,
    evidence: Evidence,
    *,
    version: str,
    method: RangeMethod = "mse",
    accept_loss: bool = False,
    cores: int = 1,
) -> Manifest:
    """Quantize the fp32 artifact `source` as the new artifact `folder`; return its manifest.

    Raises AlreadyExists, ArtifactError for an unsafe source, and ExportRefused when int8 loses accuracy (see
    `export.quantize.report`) and `accept_loss` does not say that it may; nothing is left behind then.
    """
    with atomic_folder(folder) as partial:  # first, so that an existing folder costs no time
        graphs = Graphs.of(source)
        feeds = _Feeds(source, evidence)
        ranges, rows = _find_ranges(graphs, feeds, method, cores)
        kept = _layers_to_keep(graphs, ranges, feeds, evidence, source, cores)
        quantized = quantize_graphs(graphs, ranges, kept)
        logits = {
            part: GraphRunner(quantized, cores=cores).collect(feeds.all(part, f"int8 on {part}"))
            for part in evidence.logits
        }
        comparison = _pass_the_gate(source, evidence, logits["report"], accept_loss)
        vote, targets = source.manifest.vote, {part: evidence.parts[part].targets for part in logits}
        calibration = calibrate(logits["calibrate"], targets["calibrate"], vote=vote, split="calibrate")
        order = list(calibration.voting_order)
        ordered = Graphs(quantized.trunk, tuple(_renamed(quantized.heads[i], j) for j, i in enumerate(order)))
        for graph in ordered.stages:
            check_graph(graph.model, graph.stage.file)
            content = graph.model.SerializeToString(deterministic=True)
            (partial / graph.stage.file).write_bytes(content)
        if isinstance(source.manifest.preprocessing, TextPreprocessing):
            tokenizer = source.manifest.preprocessing.tokenizer
            shutil.copyfile(source.path(tokenizer), partial / tokenizer)
        save_file(_reference_tensors(source, ordered, order, cores), partial / REFERENCE)
        files = {graph.stage.file: new.stage.file for graph, new in _pairs(graphs, ordered, order)}
        manifest = source.manifest.model_copy(
            update={
                "version": version,
                "precision": "int8",
                "trunk": ordered.trunk and ordered.trunk.stage,
                "heads": tuple(head.stage for head in ordered.heads),
                "calibration": _named_as_trained(calibration, source.manifest.calibration),
                "early_exit": early_exit_curve(
                    logits["report"], targets["report"], calibration, vote=vote, split="report"
                ),
                "sparsity": _sparsity(source.manifest.sparsity.layers, ordered, files),
                "evaluation": tuple(
                    measure(
                        logits[part][order], targets[part], vote=vote, split=part,
                        temperature=calibration.temperatures[-1],
                    )
                    for part in logits if part != "calibrate"
                ),
                "quantization": Quantization(
                    method=method,
                    split="calibrate",
                    rows=rows,
                    layers=sum(len(quantizable(graph.model)) for graph in graphs.stages) - len(kept),
                    kept=tuple(_reasons(source.manifest.sparsity.layers, graphs, kept, files)),
                    measured_split="report",
                    measured_rows=comparison.rows,
                    head_flips=tuple(comparison.head_flips[head] for head in order),
                    vote_flips=comparison.vote_flips,
                    accuracy_change=comparison.accuracy.estimate,
                    accuracy_change_low=comparison.accuracy.low,
                    accuracy_change_high=comparison.accuracy.high,
                    loss_accepted=comparison.accuracy.is_loss,
                ),
                "files": {
                    path.name: FileEntry(bytes=path.stat().st_size, sha256=sha256_of(path))
                    for path in sorted(partial.iterdir())
                },
            }
        )  # fmt: skip
        manifest = Manifest.model_validate(manifest.model_dump())  # model_copy validates nothing
        (partial / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return manifest


class _Feeds:
    """Model inputs by name, batch by batch, of the parts of the evidence."""

    def __init__(self, source: Artifact, evidence: Evidence) -> None:
        self._names = [spec.name for spec in source.manifest.inputs]
        self._batches = {part: Batches(evidence.parts[part], evidence.preprocessor, BATCH) for part in evidence.logits}

    def all(self, part: str, what: str) -> Iterable[Tensors]:
        """All batches of a part, with a progress bar on a terminal."""
        return tqdm(self._of(part), desc=what, total=len(self._batches[part]), leave=False, disable=None)

    def first(self, part: str, rows: int) -> Iterator[Tensors]:
        """The batches of a part that hold its first `rows` rows."""
        for index, tensors in enumerate(self._of(part)):
            if index * BATCH >= rows:
                return
            yield tensors

    def _of(self, part: str) -> Iterator[Tensors]:
        for batch in self._batches[part].in_order():
            yield {name: tensor.numpy() for name, tensor in zip(self._names, batch.inputs, strict=True)}


def _find_ranges(graphs: Graphs, feeds: _Feeds, method: RangeMethod, cores: int) -> tuple[Ranges, int]:
    """Ranges of all tensors that are to be quantized, and from how many rows."""
    watched = {
        graph.stage.file: tuple(dict.fromkeys(t for layer in quantizable(graph.model) for t in layer.tensors))
        for graph in graphs.stages
    }
    rows = sum(len(next(iter(tensors.values()))) for tensors in feeds.first("calibrate", CALIBRATION_ROWS))
    _say(f"Taking ranges of {sum(map(len, watched.values()))} activations from {rows:,} examples of calibrate")
    chosen = collect_ranges(
        graphs, watched, lambda: feeds.first("calibrate", CALIBRATION_ROWS), method=method, cores=cores
    )
    return chosen, rows


def _layers_to_keep(
    graphs: Graphs, ranges: Ranges, feeds: _Feeds, evidence: Evidence, source: Artifact, cores: int
) -> tuple[Sensitivity, ...]:
    """The layers without which int8 loses no more than half of what the gate allows on the calibrate part."""
    targets, vote = evidence.parts["calibrate"].targets, source.manifest.vote
    right = pool(evidence.logits["calibrate"], vote).argmax(axis=-1) == targets

    def good_enough(kept: Sequence[Sensitivity]) -> bool:
        runner = GraphRunner(quantize_graphs(graphs, ranges, kept), cores=cores)
        logits = runner.collect(feeds.all("calibrate", "int8 on calibrate"))
        change = paired_change(right, pool(logits, vote).argmax(axis=-1) == targets)
        _say(f"Accuracy on calibrate with {len(kept)} layers in fp32: {change}")
        return change.estimate >= -MOST_LOSS / 2 or change.high >= 0

    if good_enough(()):
        return ()
    few = list(feeds.first("calibrate", SENSITIVITY_ROWS))
    return keep_the_most_sensitive(measure_sensitivity(graphs, ranges, few, cores=cores), good_enough)


def _pass_the_gate(source: Artifact, evidence: Evidence, logits: Logits, accept_loss: bool) -> Comparison:
    """Compare int8 with fp32 on the report part. Raises ExportRefused for a loss that nobody accepted."""
    comparison = compare_logits(
        evidence.logits["report"], logits, evidence.parts["report"].targets, vote=source.manifest.vote
    )
    change, flipped = comparison.accuracy, comparison.vote_flips
    _say(
        f"int8 changes {flipped.flips:,} of {comparison.rows:,} votes on report ({flipped.share:.2%}); "
        f"accuracy: {change}"
    )
    if change.is_loss and not accept_loss:
        raise ExportRefused(
            f"{source.manifest.name} loses accuracy in int8: {change} on the {comparison.rows:,} rows of the report "
            f"part, where a loss of {100 * MOST_LOSS:g} points is allowed. Stay with fp32, or say --accept-loss."
        )
    if change.low < -MOST_LOSS and not change.is_loss:
        _say(
            f"{comparison.rows:,} rows are too few to rule out a loss of more than {100 * MOST_LOSS:g} points; "
            "hold out more data to know"
        )
    return comparison


def _renamed(head: StageGraph, place: int) -> StageGraph:
    return StageGraph(head.stage.model_copy(update={"file": f"head_{place}.onnx"}), head.model)


def _pairs(graphs: Graphs, ordered: Graphs, order: Sequence[int]) -> Iterator[tuple[StageGraph, StageGraph]]:
    """Each stage as it was, with what it became."""
    if graphs.trunk and ordered.trunk:
        yield graphs.trunk, ordered.trunk
    yield from ((graphs.heads[index], head) for index, head in zip(order, ordered.heads, strict=True))


def _named_as_trained(found: Calibration, before: Calibration) -> Calibration:
    """The calibration with the checkpoint's indices of the heads: `found` counts them as the fp32 artifact does."""
    order = tuple(before.voting_order[index] for index in found.voting_order)
    return found.model_copy(update={"order": order})


def _sparsity(layers: Sequence[LayerSparsity], ordered: Graphs, files: Mapping[str, str]) -> Sparsity:
    """What fp32 counted, with the stages' new files and the zeros counted anew: a small weight may round to 0."""
    weights = {graph.stage.file: stored_weights(graph.model) for graph in ordered.stages}
    places = {graph.stage.file: place for place, graph in enumerate(ordered.stages)}
    counted = [
        layer.model_copy(
            update={"stage": files[layer.stage], "nonzero": weights[files[layer.stage]][layer.name].nonzero}
        )
        for layer in layers
    ]
    counted.sort(key=lambda layer: places[layer.stage])
    return Sparsity(
        layers=tuple(counted),
        weights=sum(layer.weights for layer in counted),
        kept=sum(layer.kept for layer in counted),
        nonzero=sum(layer.nonzero for layer in counted),
    )


def _reasons(
    layers: Sequence[LayerSparsity], graphs: Graphs, kept: Sequence[Sensitivity], files: Mapping[str, str]
) -> Iterator[KeptLayer]:
    """Why weights are fp32: accuracy asked for it, or nothing that uses them so can be quantized."""
    for found in kept:
        reason = f"accuracy: quantized alone it moves the logits by {found.effect:.2%} of their variance"
        yield KeptLayer(stage=files[found.file], name=found.layer.weight, reason=reason)
    able = {(graph.stage.file, layer.weight) for graph in graphs.stages for layer in quantizable(graph.model)}
    for layer in layers:
        if (layer.stage, layer.name) not in able:
            yield KeptLayer(stage=files[layer.stage], name=layer.name, reason="used in a way that is not quantized")


def _reference_tensors(
    source: Artifact, ordered: Graphs, order: Sequence[int], cores: int
) -> dict[str, NDArray[np.generic]]:
    """Inputs, PyTorch's logits and those of the int8 graphs, operator by operator: what engines are compared with."""
    inputs, logits = read_reference(source)
    quantized = GraphRunner(ordered, cores=cores, optimized=False).logits(inputs)
    tensors: dict[str, NDArray[np.generic]] = {f"input.{name}": values for name, values in inputs.items()}
    tensors |= {LOGITS.format(place): np.ascontiguousarray(logits[head]) for place, head in enumerate(order)}
    return tensors | {QUANTIZED_LOGITS.format(place): values.copy() for place, values in enumerate(quantized)}


def _say(what: str) -> None:
    print(what, file=sys.stderr)
