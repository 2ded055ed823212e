"""What the results of the study say together: means and spread over seeds, paired comparisons, aims."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from accuracy_grid import BLOCKS_IN_HEAD, HEADS, Data
from accuracy_results import Quality, RunResult
from intervals import CONFIDENCE, RESAMPLES

Part = Literal["report", "test"]
NEUROTRAILS = "neurotrails-density0.2"
"""The variant that the aims are about."""
WEIGHT_SHARE = 0.25
"""Largest share of the ensemble's weights that the aim allows."""


@dataclass(frozen=True)
class Spread:
    """One figure over seeds."""

    values: tuple[float, ...]
    """By seed, ascending."""

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return float(np.mean(self.values))

    @property
    def deviation(self) -> float:
        """Sample standard deviation over seeds; 0 for a single one."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else 0.0


@dataclass(frozen=True)
class Group:
    """All runs of one variant on one data set."""

    results: tuple[RunResult, ...]
    """By seed, ascending."""

    @property
    def data(self) -> Data:
        """Data set."""
        return self.results[0].entry.data

    @property
    def name(self) -> str:
        """Name of the variant, such as `neurotrails-density0.2`."""
        return self.results[0].entry.label.split("/")[1]

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the results."""
        return tuple(result.entry.seed for result in self.results)

    @property
    def blocks_in_head(self) -> int:
        """Private blocks of each head, for methods with a trunk."""
        blocks = self.results[0].entry.variant.blocks_in_head
        return BLOCKS_IN_HEAD[self.data] if blocks is None else blocks

    def over_seeds(self, figure: Callable[[RunResult], float]) -> Spread:
        """One figure of each run."""
        return Spread(tuple(figure(result) for result in self.results))

    def quality(self, part: Part, figure: Callable[[Quality], float | None]) -> Spread | None:
        """One figure of each run's quality on a part; None where it is not defined, as disagreement of one head."""
        values = [figure(quality_of(result, part)) for result in self.results]
        defined = tuple(value for value in values if value is not None)
        return Spread(defined) if len(defined) == len(values) else None


def quality_of(result: RunResult, part: Part) -> Quality:
    """Quality on a part. Raises ValueError where the test part has not been measured."""
    quality = result.test if part == "test" else result.report
    if quality is None:
        raise ValueError(f"{result.entry.name} has not been measured on the test part")
    return quality


def groups_of(results: Sequence[RunResult], data: Data) -> dict[str, Group]:
    """Groups of one data set by name, in the order of the results."""
    names = dict.fromkeys(r.entry.label for r in results if r.entry.data == data)
    found = (
        Group(tuple(sorted((r for r in results if r.entry.label == label), key=lambda r: r.entry.seed)))
        for label in names
    )
    return {group.name: group for group in found}


def part_of(results: Sequence[RunResult]) -> Part:
    """The part that is shown: test when all runs are measured on it, report before that."""
    return "test" if all(result.test is not None for result in results) else "report"


@dataclass(frozen=True)
class Difference:
    """Accuracy of one variant minus that of another: by seed, and with an interval over rows."""

    by_seed: Spread
    low: float
    high: float


def difference(first: Group, second: Group, part: Part, *, seed: int = 0) -> Difference | None:
    """Compare the accuracy of two variants, paired by seed; None when they have no seed in common.

    The interval is a percentile bootstrap over rows of the mean difference over seeds, both variants on the same rows
    (Efron and Tibshirani 1993, section 13.3). It says how far the result depends on the rows; the values by seed say
    how far it depends on the training. Test rows are the same for all seeds and are drawn together; those of other
    parts depend on the seed and are drawn for each seed alone.
    """
    of_second = {result.entry.seed: result for result in second.results}
    pairs = [
        (quality_of(result, part).right_rows(), quality_of(of_second[result.entry.seed], part).right_rows())
        for result in first.results
        if result.entry.seed in of_second
    ]
    if not pairs:
        return None
    gains = [one.astype(np.int8) - other.astype(np.int8) for one, other in pairs]  # each [N], of -1, 0, 1
    generator = np.random.default_rng(seed)
    if part == "test":
        gains_by_row = np.mean(gains, axis=0)  # [N]
        values, counts = np.unique(gains_by_row, return_counts=True)
        draws = generator.multinomial(len(gains_by_row), counts / counts.sum(), size=RESAMPLES) @ values
        means = draws / len(gains_by_row)
    else:
        means = np.mean([generator.choice(gain, size=(RESAMPLES, len(gain))).mean(axis=1) for gain in gains], axis=0)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, tail), np.quantile(means, 1 - tail)
    return Difference(Spread(tuple(float(gain.mean()) for gain in gains)), float(low), float(high))


@dataclass(frozen=True)
class Aim:
    """One aim of the study."""

    text: str
    reached: bool
    figures: str


def aims(groups: dict[str, Group], part: Part) -> tuple[Aim, ...]:
    """The aims that the results at hand can decide, by means over seeds."""
    ours, dense = groups.get(NEUROTRAILS), groups.get("dense")
    ensemble, treenet = groups.get("full_ensemble"), groups.get("treenet")
    decided = []
    if ours and ensemble:
        mine, theirs = (group.quality(part, lambda q: q.accuracy) for group in (ours, ensemble))
        assert mine is not None
        assert theirs is not None
        decided.append(
            Aim(
                f"at least as accurate as the ensemble of {HEADS} dense networks",
                mine.mean >= theirs.mean,
                f"{100 * mine.mean:.2f} % against {100 * theirs.mean:.2f} %",
            )
        )
        kept, all_of_them = ours.results[0].cost.non_zeros, ensemble.results[0].cost.weights
        covered, all_covered = ours.results[0].cost.covered_non_zeros, ensemble.results[0].cost.covered_weights
        decided.append(
            Aim(
                "with at most a quarter of its weights",
                kept <= WEIGHT_SHARE * all_of_them,
                f"{kept:,} of {all_of_them:,}, {100 * kept / all_of_them:.1f} %; of the weights that masks cover "
                f"{100 * covered / all_covered:.1f} %",
            )
        )
    if ours and dense:
        mine, theirs = (group.quality(part, lambda q: q.nll) for group in (ours, dense))
        assert mine is not None
        assert theirs is not None
        decided.append(
            Aim(
                "better NLL than one dense network",
                mine.mean < theirs.mean,
                f"{mine.mean:.4f} against {theirs.mean:.4f}, both calibrated",
            )
        )
    if ours and ensemble and treenet:
        spreads = [group.quality(part, lambda q: q.disagreement) for group in (treenet, ours, ensemble)]
        low, own, high = (spread.mean if spread else float("nan") for spread in spreads)
        decided.append(
            Aim(
                "disagreement between TreeNet's and the ensemble's",
                low < own < high,
                f"{100 * low:.2f} %, {100 * own:.2f} %, {100 * high:.2f} %",
            )
        )
    return tuple(decided)


def chosen_blocks(groups: dict[str, Group]) -> Group | None:
    """The number of blocks in a head that is best on the report part, at density 0.2 with the usual heads."""
    sweep = blocks_sweep(groups)
    return max(sweep, key=lambda group: Spread(tuple(r.report.accuracy for r in group.results)).mean, default=None)


def blocks_sweep(groups: dict[str, Group]) -> tuple[Group, ...]:
    """NeuroTrails at density 0.2 with the usual heads, by blocks in a head."""
    sweep = [
        group
        for group in groups.values()
        if (variant := group.results[0].entry.variant).kind == "neurotrails"
        and (variant.density, variant.heads, variant.embeddings) == (0.2, HEADS, False)
    ]
    return tuple(sorted(sweep, key=lambda group: group.blocks_in_head))


def density_sweep(groups: dict[str, Group]) -> tuple[Group, ...]:
    """NeuroTrails with the usual heads and blocks, by density."""
    sweep = [
        group
        for group in groups.values()
        if (variant := group.results[0].entry.variant).kind == "neurotrails"
        and (variant.heads, variant.blocks_in_head, variant.embeddings) == (HEADS, None, False)
    ]
    return tuple(sorted(sweep, key=lambda group: group.results[0].entry.variant.density))
