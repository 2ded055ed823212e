"""Made-up results of the study, for tests of what is said about results."""

import numpy as np

from accuracy_grid import Entry, grid
from accuracy_processes import Times
from accuracy_results import Cost, Quality, RunResult, Training, pack_rows
from environment import describe_environment

ROWS = 20


def quality(part: str, right: int, *, heads: int = 3, disagreement: float = 0.1, nll: float = 0.5) -> Quality:
    """The first `right` of 20 rows are right."""
    return Quality(
        part=part, rows=ROWS, accuracy=right / ROWS, nll=nll, brier=0.2, ece=0.03, adaptive_ece=0.04, aurc=0.02,
        uncalibrated_nll=nll + 0.1, uncalibrated_ece=0.05, temperature=1.2, head_accuracy=(right / ROWS,) * heads,
        disagreement=disagreement if heads > 1 else None, kl=0.4 if heads > 1 else None,
        right=pack_rows(np.arange(ROWS) < right),
    )  # fmt: skip


def result(
    entry: Entry,
    right: int,
    *,
    on_report: int | None = None,
    weights: int = 1000,
    non_zeros: int = 1000,
    disagreement: float = 0.1,
    nll: float = 0.5,
    tested: bool = True,
    smoke: bool = False,
) -> RunResult:
    """A result with `right` of 20 test rows right."""
    heads = entry.variant.heads
    report = right if on_report is None else on_report
    return RunResult(
        smoke=smoke,
        entry=entry,
        recipe=f"recipes/study-{entry.data}.yaml",
        overrides=entry.overrides,
        settings_sha256="0" * 64,
        environment=describe_environment(1),
        training=Training(
            times=Times(wall_seconds=12, core_seconds=10, processes=1, killed=0), steps=100, best_step=80, epochs=5,
            threads=1, data_sha256="1" * 64, code_version="1", config_sha256="2" * 64,
        ),
        cost=Cost(
            weights=weights, non_zeros=non_zeros, covered_weights=weights - 10, covered_non_zeros=non_zeros - 10,
            inference_macs=non_zeros * 50, training_macs=non_zeros * 10**6, inference_macs_to_dense=non_zeros / 1000,
            training_macs_to_dense=non_zeros / 1000,
        ),
        report=quality("report", report, heads=heads, disagreement=disagreement, nll=nll),
        test=quality("test", right, heads=heads, disagreement=disagreement, nll=nll) if tested else None,
    )  # fmt: skip


def entry_of(label: str, seed: int) -> Entry:
    """The grid's entry of that name."""
    [found] = [entry for entry in grid(seeds=(seed,)) if entry.label == label]
    return found


def a_study() -> list[RunResult]:
    """Stage 1 on Fashion-MNIST with 3 seeds: NeuroTrails reaches all aims but the disagreement."""
    made = []
    for seed in (1, 2, 3):
        for name, right, weights, non_zeros, disagreement, nll in (
            ("dense", 14, 1000, 1000, 0.0, 0.50),
            ("full_ensemble", 16, 3000, 3000, 0.20, 0.40),
            ("treenet", 15, 2500, 2500, 0.10, 0.45),
            ("neurotrails-density0.2", 16, 2500, 510, 0.25, 0.42),
            ("neurotrails-density0.1", 13, 2500, 260, 0.22, 0.44),
        ):
            made.append(
                result(
                    entry_of(f"fashion-mnist/{name}", seed), right + (seed == 3), weights=weights, non_zeros=non_zeros,
                    disagreement=disagreement, nll=nll + 0.01 * seed,
                )
            )  # fmt: skip
    return made
