"""What the heads say on one part, made ready for the page."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from runtime.pages.charts import Axis, Line, line_chart
from runtime.pages.exits import exit_figure
from runtime.pages.rendering import Figure, Table
from runtime.vote import pool
from training.calibration import calibrate, calibrated_votes, early_exit_curve
from training.data import Examples
from training.evaluation.agreement import disagreements
from training.evaluation.confidence import selective_risks
from training.metrics import ECE_BINS, measure
from training.report.examples import show_examples
from training.report.findings import (
    Bins,
    Floats,
    Integers,
    confusion,
    most_confident_errors,
    most_disputed,
    reliability,
)
from training.report.page import Cell, Matrix, Predictions
from training.report.reliability import reliability_chart

MOST_EXAMPLES = 24
MOST_CLASSES = 30
"""A confusion table of more classes cannot be read."""
MOST_CONFUSED = 15
"""Pairs of classes that are listed."""
COVERAGES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)

PERCENT = Axis("", percent=True)


def predictions(
    logits: NDArray[np.float32],
    examples: Examples,
    labels: Sequence[str],
    *,
    part: str,
    calibrate_logits: NDArray[np.float32],
    calibrate_targets: Integers,
) -> Predictions:
    """Measure logits [H, N, K] of one part; temperatures come from the calibrate part, logits [H, C, K]."""
    targets, heads = examples.targets, len(logits)
    calibration = calibrate(calibrate_logits, calibrate_targets, split="calibrate")
    temperature = calibration.temperatures[-1]
    metrics = measure(logits, targets, split=part, temperature=temperature)
    raw = pool(logits, "probabilities")
    firsts = calibrated_votes(logits, calibration)  # [H, N, K]
    voted = firsts[-1]
    exits = early_exit_curve(logits, targets, calibration, split=part)
    counts = confusion(voted.argmax(axis=1), targets, len(labels))
    rows = most_disputed(logits, MOST_EXAMPLES) if heads > 1 else most_confident_errors(logits, targets, MOST_EXAMPLES)
    accuracies = [float((vote.argmax(axis=1) == targets).mean()) for vote in firsts]
    order = ", ".join(map(str, calibration.voting_order))
    note = f"Voting order, chosen on the calibrate part: heads {order}."
    return Predictions(
        part=part,
        rows=len(targets),
        scores=Table(
            ("accuracy", "NLL", "Brier score", "ECE", "NLL before", "ECE before", "disagreement"),
            [
                (
                    f"{metrics.accuracy:.2%}",
                    f"{metrics.nll:.4f}",
                    f"{metrics.brier:.4f}",
                    f"{metrics.ece:.4f}",
                    f"{metrics.uncalibrated_nll:.4f}",
                    f"{metrics.uncalibrated_ece:.4f}",
                    "one head" if metrics.disagreement is None else f"{metrics.disagreement:.2%}",
                )
            ],
        ),
        agreement=_agreement(logits, metrics.head_accuracy) if heads > 1 else None,
        reliability=[
            _reliability("Before calibration", raw, targets, metrics.uncalibrated_ece, "temperature 1"),
            _reliability("After calibration", voted, targets, metrics.ece, f"temperature {temperature:.3f}"),
        ],
        selective=[
            *([exit_figure(exits, note, prefix=accuracies)] if heads > 1 else []),
            _risk_figure(voted, targets),
        ],
        examples=show_examples(rows, examples, labels, logits, voted),
        confusion=_confusion(counts, labels) if len(labels) <= MOST_CLASSES else None,
        confused=_confused(counts, labels),
    )


def _agreement(logits: NDArray[np.float32], accuracy: Sequence[float]) -> Matrix:
    differs = disagreements(logits)
    largest = max(float(differs.max()), 1e-12)
    cells = [
        [Cell("", 0, own=True) if a == b else Cell(f"{value:.2%}", value / largest) for b, value in enumerate(line)]
        for a, line in enumerate(differs.tolist())
    ]
    names = [f"head {head}" for head in range(len(differs))]
    return Matrix(names, cells, ("accuracy", [f"{value:.2%}" for value in accuracy]))


def _reliability(title: str, votes: Floats, targets: Integers, ece: float, temperature: str) -> Figure:
    bins = reliability(votes, targets, ECE_BINS)
    caption = (
        f"ECE {ece:.4f} ({ECE_BINS} bins), {temperature}. Bars: accuracy of the rows in a bin, the mark is their mean "
        "confidence; on the diagonal both are equal. Below: how many rows a bin holds."
    )
    return Figure(title, reliability_chart(f"Reliability diagram, {title.lower()}", bins), caption, table=_bins(bins))


def _bins(bins: Bins) -> Table:
    rows = [
        (f"{low:.1%} to {high:.1%}", f"{count:,}", *(("", "") if count == 0 else (f"{mean:.2%}", f"{right:.2%}")))
        for low, high, count, mean, right in zip(
            bins.edges, bins.edges[1:], bins.rows, bins.confidence, bins.accuracy, strict=False
        )
    ]
    return Table(("confidence", "rows", "mean confidence", "accuracy"), rows)


def _risk_figure(voted: Floats, targets: Integers) -> Figure:
    risk = selective_risks(voted, targets)
    coverage = np.arange(1, len(risk) + 1) / len(risk)
    line = Line("vote", list(zip(coverage.tolist(), risk.tolist(), strict=True)), 0)
    x, y = Axis("coverage: share of rows answered", 0, 1, percent=True), Axis("", 0, percent=True)
    at = [(share, max(round(share * len(targets)) - 1, 0)) for share in COVERAGES]
    table = Table(("coverage", "risk"), [(f"{share:.0%}", f"{risk[index]:.2%}") for share, index in at])
    caption = (
        "Error rate when only the rows of the highest confidence are answered. "
        f"Its mean over all coverages (AURC) is {risk.mean():.4f}."
    )
    return Figure("Risk and coverage", line_chart("Risk against coverage", [line], x, y), caption, table=table)


def _confusion(counts: Integers, labels: Sequence[str]) -> Matrix:
    sizes = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    shares = counts / sizes
    cells = [
        [
            Cell(
                f"{count:,}" if count else "",
                float(np.sqrt(shares[a, b])),
                own=a == b,
                hint=f"{labels[a]} taken for {labels[b]}: {count:,}",
            )
            for b, count in enumerate(line)
        ]
        for a, line in enumerate(counts.tolist())
    ]
    found = [
        f"{share:.1%}" if size else "no rows" for share, size in zip(shares.diagonal(), counts.sum(axis=1), strict=True)
    ]
    return Matrix(labels, cells, ("found", found))


def _confused(counts: Integers, labels: Sequence[str]) -> Table:
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:MOST_CONFUSED]
    pairs = [(int(index) // len(labels), int(index) % len(labels)) for index in order]
    rows = [
        (labels[a], labels[b], f"{wrong[a, b]:,}", f"{wrong[a, b] / counts[a].sum():.1%}")
        for a, b in pairs
        if wrong[a, b]
    ]
    return Table(("true class", "taken for", "rows", "of that class"), rows)
