"""What the native engine is measured on, and the aims that it has to meet there."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from live_networks import LIVE
from networks import BenchmarkError, Weights, shipped_tokens
from runtime.artifact import MANIFEST, Artifact, sha256_of
from runtime.manifest import Manifest


@dataclass(frozen=True)
class Aim:
    """Native is to be at least `ratio` times as fast as the fastest of the engines `against`."""

    ratio: float
    against: tuple[str, ...]


@dataclass(frozen=True)
class LoadAims:
    """Seconds from the artifact's folder to an engine that answers, at most."""

    cold: float
    """Without compiled code on disk."""
    warm: float


@dataclass(frozen=True)
class Work:
    """A network at a density, and what is asked of the native engine there."""

    name: str
    network: str
    """Name in LIVE, or of a shipped artifact."""
    density: float | None
    """None: a shipped artifact, as it is."""
    aims: dict[int, Aim]
    """By batch size; at others nothing is asked."""
    load_aims: LoadAims | None = None

    @property
    def is_smoke(self) -> bool:
        """Whether it only shows that the benchmark works."""
        return self.network.startswith("tiny")


@dataclass(frozen=True)
class PreparedWork:
    """The artifact of a work."""

    work: Work
    folder: Path
    manifest: Manifest
    tokens: int | None
    weights: Weights
    sha256: str
    """Of its manifest."""


def _aims(batch_1: float) -> dict[int, Aim]:
    return {1: Aim(batch_1, ("deepsparse",)), 16: Aim(1.0, ("deepsparse",))}


_FASTER_OF_BOTH = Aim(1.5, ("deepsparse", "onnxruntime"))

WORKS = (
    Work("resnet50-0.1", "resnet50", 0.1, _aims(1.7), LoadAims(cold=5.0, warm=1.0)),
    Work("resnet50-0.05", "resnet50", 0.05, _aims(1.7)),
    Work("wrn-28-10-0.2", "wrn-28-10", 0.2, _aims(1.5)),
    Work("wrn-28-10-0.05", "wrn-28-10", 0.05, _aims(1.8)),
    Work("encoder-12x768-0.2", "encoder-12x768", 0.2, _aims(1.3)),
    Work("encoder-12x768-0.05", "encoder-12x768", 0.05, _aims(1.5)),
    Work("fashion-mnist", "fashion-mnist", None, {1: _FASTER_OF_BOTH, 16: _FASTER_OF_BOTH}),
    Work("newsgroups", "newsgroups", None, {1: _FASTER_OF_BOTH, 16: _FASTER_OF_BOTH}),
    Work("tiny", "tiny", 0.3, {1: _FASTER_OF_BOTH}, LoadAims(cold=5.0, warm=1.0)),
    Work("tiny-encoder", "tiny-encoder", 0.3, {1: _FASTER_OF_BOTH}),
)


def choose_works(wanted: Sequence[str]) -> tuple[Work, ...]:
    """Works by their names or the names of their networks; none: all but the tiny ones. Raises BenchmarkError."""
    if not wanted:
        return tuple(work for work in WORKS if not work.is_smoke)
    for name in wanted:
        if not any(name in (work.name, work.network) for work in WORKS):
            known = ", ".join(dict.fromkeys(name for work in WORKS for name in (work.network, work.name)))
            raise BenchmarkError(f"There is no work {name!r}. Choose from: {known}.")
    return tuple(work for work in WORKS if {work.name, work.network} & set(wanted))


def prepare_work(work: Work, models: Path, workspace: Path, *, threads: int) -> PreparedWork:
    """Open the shipped artifact, or write a live one to `workspace`. Raises ArtifactError, DeadNetwork."""
    if work.density is None:
        if not (models / work.network / MANIFEST).is_file():
            raise BenchmarkError(f"{models} holds no artifact {work.network!r}. Export it, or choose other --works.")
        folder = models / work.network
        manifest = Artifact.open(folder).manifest
        return PreparedWork(work, folder, manifest, shipped_tokens(manifest), "trained", sha256_of(folder / MANIFEST))
    torch.set_num_threads(threads)
    recipe = replace(LIVE[work.network], density=work.density)
    folder = workspace / work.name
    manifest = recipe.write(folder)
    return PreparedWork(work, folder, manifest, recipe.tokens, "live random", sha256_of(folder / MANIFEST))
