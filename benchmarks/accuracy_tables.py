"""The tables of the study, made from its result files alone: a short one in the README, all of them in docs/study.md.

python benchmarks/accuracy_tables.py            # writes them between the marker lines, and the plots
python benchmarks/accuracy_tables.py --check    # fails when a document says something else
"""

import sys
from collections.abc import Sequence

from accuracy_grid import DATA, SEEDS, Data, grid
from accuracy_plots import SMOKE, STYLES, write_plots
from accuracy_results import Quality, RunResult, read_results
from accuracy_summary import (
    NEUROTRAILS,
    Group,
    Part,
    Spread,
    aims,
    blocks_sweep,
    chosen_blocks,
    difference,
    groups_of,
    part_of,
    quality_of,
)
from documents import put_between
from environment import REPOSITORY

RESULTS = REPOSITORY / "benchmarks" / "results" / "accuracy"
COMMAND = "python benchmarks/accuracy_tables.py"
BEGIN = f"<!-- study: made by `{COMMAND}` -->"
END = "<!-- end of study -->"
NOTHING = "No run of the study has been measured yet: `python benchmarks/accuracy.py` makes them."
PLOTS = (
    ("accuracy-nonzeros.png", "Accuracy of the vote against the number of weights kept."),
    ("accuracy-disagreement.png", "Accuracy of the vote against the disagreement of the heads."),
    ("nll-training-macs.png", "Calibrated NLL against the multiply-adds of training."),
)


def readme(results: Sequence[RunResult]) -> str:
    """The README's table: stage 1, and how many aims are reached."""
    if not results:
        return NOTHING
    first = [result for result in results if result.entry.stage == 1]
    lines = [*_warning(results), f"{_budget(results)} Mean of {_seeds(first)}, in brackets lowest and highest:", ""]
    lines += [
        "| data | method | weights kept | accuracy | NLL | disagreement | MACs: answer / training |",
        "|---|---|---|---|---|---|---|",
    ]
    for data in _measured(first):
        groups = groups_of(first, data)
        part = part_of([result for group in groups.values() for result in group.results])
        for group in groups.values():
            accuracy, nll = group.quality(part, lambda q: q.accuracy), group.quality(part, lambda q: q.nll)
            apart, cost = group.quality(part, lambda q: q.disagreement), group.results[0].cost
            training = group.over_seeds(lambda result: result.cost.training_macs_to_dense)
            lines.append(
                f"| {data} | {title(group)} | {_count(cost.non_zeros)} | {_range(accuracy)} | {_mean(nll, 3)} "
                f"| {_percent(apart)} | {cost.inference_macs_to_dense:.2f}x / {training.mean:.2f}x |"
            )
    for data in _measured(first):
        groups = groups_of(first, data)
        decided = aims(groups, part_of([result for group in groups.values() for result in group.results]))
        reached = sum(aim.reached for aim in decided)
        if decided:
            lines += ["", f"Aims of NeuroTrails at density 0.2 on {data}, {reached} of {len(decided)} reached:", ""]
        lines += [f"- {'reached' if aim.reached else '**missed**'}: {aim.text} ({aim.figures})" for aim in decided]
    return "\n".join(
        [
            *lines,
            "",
            "`python benchmarks/accuracy.py` makes this; everything else, with plots: [docs/study.md](docs/study.md).",
        ]
    )


def study(results: Sequence[RunResult]) -> str:
    """All tables of docs/study.md."""
    if not results:
        return NOTHING
    lines = [*_warning(results), _budget(results), "", _progress(results), ""]
    for data in _measured(results):
        groups = groups_of(results, data)
        part = part_of([result for group in groups.values() for result in group.results])
        lines += [f"### {data}", "", f"On the {part} part; mean, then every seed in order.", ""]
        lines += [*quality_table(groups, part), "", *cost_table(groups), ""]
        lines += [*_aims(groups, part), *_differences(groups, part), *_goldilocks(groups, part)]
    lines += [line for name, text in PLOTS for line in (f"![{text}](../benchmarks/results/accuracy/{name})", "")]
    return "\n".join(lines).rstrip()


def quality_table(groups: dict[str, Group], part: Part) -> list[str]:
    """What each variant's vote is worth."""
    lines = [
        "| method | accuracy % | each head % | NLL | NLL before calibration | Brier | ECE | ECE before | adaptive ECE "
        "| AURC | disagreement % | KL |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for group in groups.values():
        heads = [100 * value for result in group.results for value in quality_of(result, part).head_accuracy]
        cells = [
            title(group),
            _each(group.quality(part, lambda q: 100 * q.accuracy), 2),
            f"{min(heads):.2f} to {max(heads):.2f}",
            _each(group.quality(part, lambda q: q.nll), 4),
            _mean(group.quality(part, lambda q: q.uncalibrated_nll), 4),
            _mean(group.quality(part, lambda q: q.brier), 4),
            _mean(group.quality(part, lambda q: q.ece), 4),
            _mean(group.quality(part, lambda q: q.uncalibrated_ece), 4),
            _mean(group.quality(part, lambda q: q.adaptive_ece), 4),
            _mean(group.quality(part, lambda q: q.aurc), 4),
            _each(group.quality(part, _disagreement), 2),
            _mean(group.quality(part, lambda q: q.kl), 4),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def cost_table(groups: dict[str, Group]) -> list[str]:
    """What each variant costs, in weights, multiply-adds and time."""
    lines = [
        "| method | weights | kept | of those that masks cover | MACs of an answer | MACs of training "
        "| core-seconds of training |",
        "|---|---|---|---|---|---|---|",
    ]
    for group in groups.values():
        cost = group.results[0].cost
        work = group.over_seeds(lambda result: result.cost.training_macs_to_dense)
        times = group.over_seeds(lambda result: result.training.times.core_seconds)
        killed = "" if not sum(result.training.times.killed for result in group.results) else " (at least)"
        cells = [
            title(group),
            f"{cost.weights:,}",
            f"{cost.non_zeros:,}",
            f"{cost.covered_non_zeros:,} of {cost.covered_weights:,}",
            f"{cost.inference_macs / 1e6:.1f} M, {cost.inference_macs_to_dense:.2f}x",
            f"{work.mean:.2f}x",
            f"{times.mean:.0f}{killed}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def title(group: Group) -> str:
    """Name of a variant for readers, such as `NeuroTrails, density 0.2`."""
    variant = group.results[0].entry.variant
    name = STYLES[variant.kind][2]
    name += "" if variant.density == 1 else f", density {variant.density:g}"
    name += f", {variant.heads} heads" if f"-heads{variant.heads}" in group.name else ""
    name += "" if variant.blocks_in_head is None else f", {variant.blocks_in_head} blocks in a head"
    return name + (", sparse embeddings" if variant.embeddings else "")


def _aims(groups: dict[str, Group], part: Part) -> list[str]:
    decided = aims(groups, part)
    if not decided:
        return []
    rows = [f"| {aim.text} | {'reached' if aim.reached else '**missed**'} | {aim.figures} |" for aim in decided]
    return ["| aim of NeuroTrails at density 0.2 | | |", "|---|---|---|", *rows, ""]


def _differences(groups: dict[str, Group], part: Part) -> list[str]:
    ours = groups.get(NEUROTRAILS)
    if ours is None:
        return []
    lines = [
        "Accuracy of NeuroTrails at density 0.2 minus that of others, in percentage points, paired by seed; the "
        "interval holds 95 % of draws of other rows:",
        "",
        "| minus | mean | seeds | interval |",
        "|---|---|---|---|",
    ]
    for group in groups.values():
        if group is not ours and (found := difference(ours, group, part)) is not None:
            each = ", ".join(f"{100 * value:+.2f}" for value in found.by_seed.values)
            interval = f"{100 * found.low:+.2f} to {100 * found.high:+.2f}"
            lines.append(f"| {title(group)} | {100 * found.by_seed.mean:+.2f} | {each} | {interval} |")
    return [*lines, ""] if len(lines) > 4 else []


def _goldilocks(groups: dict[str, Group], part: Part) -> list[str]:
    sweep, chosen = blocks_sweep(groups), chosen_blocks(groups)
    if len(sweep) < 2 or chosen is None:
        return []
    lines = [
        "How much is shared (density 0.2; the report part, where things are chosen, prefers "
        f"{chosen.blocks_in_head} blocks in a head):",
        "",
        f"| blocks in a head | disagreement % | accuracy %, {part} | accuracy %, report |",
        "|---|---|---|---|",
    ]
    rows = [
        f"| {group.blocks_in_head} | {_each(group.quality(part, _disagreement), 2)} "
        f"| {_each(group.quality(part, lambda q: 100 * q.accuracy), 2)} "
        f"| {_each(group.quality('report', lambda q: 100 * q.accuracy), 2)} |"
        for group in sweep
    ]
    return [*lines, *rows, ""]


def _warning(results: Sequence[RunResult]) -> list[str]:
    return [f"**{SMOKE}.**", ""] if any(result.smoke for result in results) else []


def _budget(results: Sequence[RunResult]) -> str:
    """Say how small the budget is: the ranking of methods may differ from that of long trainings."""
    epochs = {data: next(r.training.epochs for r in results if r.entry.data == data) for data in _measured(results)}
    recipes = " and ".join(f"{count} epochs on {data}" for data, count in epochs.items())
    return (
        f"The budget is small: small networks, {recipes}, on a CPU. It compares methods that share one recipe; it sets "
        "no record, and long trainings may rank them differently."
    )


def _progress(results: Sequence[RunResult]) -> str:
    names = {result.entry.name for result in results}
    parts = []
    for stage in (1, 2, 3):
        entries = grid(stages=(stage,))
        parts.append(f"stage {stage}: {sum(entry.name in names for entry in entries)} of {len(entries)} runs")
    made = results[-1].environment
    where = f"{made.cpu}, Python {made.python}, torch {made.packages['torch']}"
    return f"Measured so far: {'; '.join(parts)}. Made on {where}."


def _measured(results: Sequence[RunResult]) -> list[Data]:
    return [name for name in DATA if any(result.entry.data == name for result in results)]


def _seeds(results: Sequence[RunResult]) -> str:
    seeds = {result.entry.seed for result in results}
    return f"{len(seeds)} of {len(SEEDS)} seeds" if len(seeds) < len(SEEDS) else f"{len(seeds)} seeds"


def _disagreement(quality: Quality) -> float | None:
    return None if quality.disagreement is None else 100 * quality.disagreement


def _range(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    low, high = min(spread.values), max(spread.values)
    return f"{100 * spread.mean:.2f} % ({100 * low:.2f} to {100 * high:.2f})"


def _percent(spread: Spread | None) -> str:
    return "-" if spread is None else f"{100 * spread.mean:.2f} %"


def _mean(spread: Spread | None, digits: int) -> str:
    return "-" if spread is None else f"{spread.mean:.{digits}f}"


def _each(spread: Spread | None, digits: int) -> str:
    """The mean, and every seed's value."""
    if spread is None:
        return "-"
    each = ", ".join(f"{value:.{digits}f}" for value in spread.values)
    return f"**{spread.mean:.{digits}f}** ({each})"


def _count(number: int) -> str:
    return f"{number / 1e6:.2f} M" if number >= 10**6 else f"{number / 1e3:.0f} k"


def write(results: Sequence[RunResult], *, check: bool) -> int:
    """Write or check both documents; returns the exit status."""
    documents = {REPOSITORY / "README.md": readme(results), REPOSITORY / "docs" / "study.md": study(results)}
    return max(put_between(path, BEGIN, END, text, check=check, command=COMMAND) for path, text in documents.items())


def main(arguments: Sequence[str]) -> int:
    """Write or check documents and plots; returns the exit status."""
    results = read_results(RESULTS)
    check = "--check" in arguments
    if not check:
        write_plots(RESULTS, results)
    return write(results, check=check)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
