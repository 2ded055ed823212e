"""The tables of the README, made from measured files alone: manifests in models/ and results/cpu_latency.json.

python benchmarks/readme_tables.py            # writes them into README.md, between the two marker lines
python benchmarks/readme_tables.py --check    # fails when the README says something else
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from documents import put_between
from latency_results import LatencyResults, SubjectResult
from runtime.artifact import Artifact

REPOSITORY = Path(__file__).resolve().parents[1]
COMMAND = "python benchmarks/readme_tables.py"
BEGIN = f"<!-- tables: made by `{COMMAND}` -->"
END = "<!-- end of tables -->"


def accuracy_table(artifacts: Sequence[Artifact]) -> str:
    """Quality of the shipped artifacts on their test sets, from their manifests."""
    lines = [
        "| artifact | weights kept | heads alone | vote | NLL | ECE | size |",
        "|---|---|---|---|---|---|---|",
    ]
    for artifact in artifacts:
        manifest = artifact.manifest
        test = next(metrics for metrics in manifest.evaluation if metrics.split == "test")
        alone = f"{100 * min(test.head_accuracy):.1f} to {100 * max(test.head_accuracy):.1f} %"
        size = sum(entry.bytes for entry in manifest.files.values()) / 1e6
        kept = f"{manifest.sparsity.kept:,} of {manifest.sparsity.weights:,}"
        lines.append(
            f"| `{manifest.name}` | {kept} | {alone} | **{100 * test.accuracy:.1f} %** | {test.nll:.3f} "
            f"| {test.ece:.3f} | {size:.1f} MB |"
        )
    return "\n".join(lines)


def latency_table(results: LatencyResults) -> str:
    """Sparse network with all heads against the dense ensemble, each on the engine that runs it fastest."""
    lines = [
        "| network | batch | sparse, all heads | dense ensemble | speed-up | single dense network |",
        "|---|---|---|---|---|---|",
    ]
    panels = dict.fromkeys((subject.network, subject.batch) for subject in results.subjects)
    for network, batch in panels:
        heads = next(each.heads for each in results.networks if each.name == network)
        density = next(each.density for each in results.networks if each.name == network)
        subjects = [s for s in results.subjects if (s.network, s.batch) == (network, batch)]
        sparse = _fastest(subjects, "sparse", heads)
        dense = _fastest(subjects, "dense", heads)
        single = _fastest(subjects, "dense", 1)
        ratio = float(np.median(np.array(dense.round_seconds) / np.array(sparse.round_seconds)))
        lines.append(
            f"| {network}, density {density:.1g} | {batch} | {_latency(sparse)} | {_latency(dense)} "
            f"| **{ratio:.1f}x** | {_latency(single)} |"
        )
    return "\n".join(lines)


def tables(results: LatencyResults, artifacts: Sequence[Artifact]) -> str:
    """Both tables, with what a reader needs to judge them."""
    environment = results.environment
    rounds = sorted({subject.rounds for subject in results.subjects})
    return "\n".join(
        [
            "On the genuine test sets (percentages, NLL in nats and calibration error are those of the manifests):",
            "",
            accuracy_table(artifacts),
            "",
            f"Median latency on {environment.cores} cores of an {environment.cpu}, in milliseconds for the whole "
            f"batch, by the engine named behind it, which is the fastest of those installed for that network "
            f"({rounds[0]} to {rounds[-1]} interleaved rounds; speed-up is the median of paired rounds; ResNet-50 and "
            "all dense networks have live random weights):",
            "",
            latency_table(results),
        ]
    )


def _fastest(subjects: Sequence[SubjectResult], kind: str, heads: int) -> SubjectResult:
    return min(
        (subject for subject in subjects if subject.kind == kind and subject.heads == heads),
        key=lambda subject: subject.latency.median,
    )


def _latency(subject: SubjectResult) -> str:
    milliseconds = 1000 * subject.latency.median
    digits = f"{milliseconds:,.0f}" if milliseconds >= 100 else f"{milliseconds:.3g}"
    return f"{digits} ({subject.engine})"


def main(arguments: Sequence[str]) -> int:
    """Write or check the README; returns the exit status."""
    results = LatencyResults.model_validate_json((REPOSITORY / "benchmarks/results/cpu_latency.json").read_bytes())
    artifacts = [Artifact.open(path.parent) for path in sorted((REPOSITORY / "models").glob("*/manifest.json"))]
    content = tables(results, artifacts)
    return put_between(REPOSITORY / "README.md", BEGIN, END, content, check="--check" in arguments, command=COMMAND)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
