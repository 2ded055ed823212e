"""The grid of the study: which methods are trained on which data with which seeds, and in which order.

All entries of one data set share one recipe; an entry overrides only what makes its method. So methods differ, and
nothing else does.
"""

from collections.abc import Iterator, Sequence
from itertools import chain, product
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict

from runtime.errors import NeurotrailsError

Data = Literal["fashion-mnist", "newsgroups"]
Method = Literal[
    "dense", "full_ensemble", "treenet", "neurotrails", "static_sparse", "dst_ensemble", "edst_ensemble"
]  # fmt: skip
DATA: tuple[Data, ...] = get_args(Data)
SEEDS = (1, 2, 3)
STAGES = (1, 2, 3)
HEADS = 3
"""Members of every ensemble, unless an entry says otherwise."""
BLOCKS: dict[Data, int] = {"fashion-mnist": 3, "newsgroups": 2}
"""Blocks of each recipe's network."""
BLOCKS_IN_HEAD: dict[Data, int] = {"fashion-mnist": 2, "newsgroups": 1}
"""Private blocks of a head, unless an entry says otherwise: those of the recipe."""
SGD_RATE = 0.1
"""Learning rate of the recipe that uses SGD, that of images."""
DENSE: tuple[Method, ...] = ("dense", "full_ensemble", "treenet")
"""Methods that keep all weights."""


class GridError(NeurotrailsError):
    """The study was asked for something that its grid does not hold."""


class Variant(BaseModel):
    """What makes a method, data set and seed aside."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Method
    density: float = 1.0
    heads: int = HEADS
    blocks_in_head: int | None = None
    """None: what the recipe says, for methods with a trunk; nothing is shared by the others."""
    embeddings: bool = False
    """Whether the budget covers token embeddings, too."""
    from_dense: bool = False
    """Whether training begins dense, and the density falls in its first half (dense to sparse)."""
    full_rate: bool = False
    """Whether the learning rate is multiplied by the number of heads. The loss is the mean over the heads, so that
    under plain SGD a head otherwise learns at that fraction of the rate at which a network of its own would."""

    @property
    def kind(self) -> str:
        """What plots and tables tell apart: the method, NeuroTrails that begins dense, and the full rate."""
        kind = "dense_to_sparse" if self.from_dense else self.method
        return f"{kind}_full_rate" if self.full_rate else kind


class Entry(BaseModel):
    """One run of the study."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: int
    data: Data
    variant: Variant
    seed: int

    @property
    def label(self) -> str:
        """Name of data set and variant, the same for all seeds, such as `fashion-mnist/neurotrails-density0.2`."""
        variant = self.variant
        parts: list[str] = [variant.method]
        if variant.method not in DENSE:
            parts.append(f"density{variant.density:g}")
        if variant.method != "dense" and variant.heads != HEADS:
            parts.append(f"heads{variant.heads}")
        if variant.blocks_in_head is not None:
            parts.append(f"blocks{variant.blocks_in_head}")
        if variant.embeddings:
            parts.append("embeddings")
        if variant.from_dense:
            parts.append("fromdense")
        if variant.full_rate:
            parts.append("fullrate")
        return f"{self.data}/{'-'.join(parts)}"

    @property
    def name(self) -> str:
        """Unique name, and the path of run and result, such as `fashion-mnist/neurotrails-density0.2-seed1`."""
        return f"{self.label}-seed{self.seed}"

    @property
    def overrides(self) -> tuple[str, ...]:
        """Changes to the data set's recipe."""
        variant = self.variant
        changes = [f"seed={self.seed}", f"method={variant.method}"]
        if variant.method not in DENSE:
            changes.append(f"sparsity.density={variant.density:g}")
        if variant.method != "dense":
            changes.append(f"ensemble.heads={variant.heads}")
        if variant.blocks_in_head is not None:
            changes.append(f"ensemble.blocks_in_head={variant.blocks_in_head}")
        if variant.embeddings:
            changes.append("sparsity.embeddings=true")
        if variant.from_dense:
            changes += ["sparsity.initial_density=1", "sparsity.decay_until=0.5"]
        if variant.full_rate:
            changes.append(f"optimizer.lr={SGD_RATE * variant.heads:g}")
        return tuple(changes)


def grid(
    stages: Sequence[int] = STAGES,
    data: Sequence[str] = DATA,
    seeds: Sequence[int] = SEEDS,
    methods: Sequence[str] = (),
) -> tuple[Entry, ...]:
    """Entries in the order in which they are run: by stage, then by seed, so that an interrupted study is balanced.

    A variant that belongs to several stages is run in the first. Raises GridError for what the grid does not hold.
    """
    _check("--stages", stages, STAGES)
    _check("--data", data, DATA)
    _check("--methods", methods, get_args(Method))
    if not seeds or min(seeds) < 0:
        raise GridError(f"--seeds must be numbers from 0 up, not {' '.join(map(str, seeds)) or 'none'}.")
    entries: dict[str, Entry] = {}
    for stage, seed in product(STAGES, seeds):
        for variant, name in _variants(stage):
            if name in data and (not methods or variant.method in methods):
                entry = Entry(stage=stage, data=name, variant=variant, seed=seed)
                entries.setdefault(entry.name, entry)
    return tuple(entry for entry in entries.values() if entry.stage in stages)


def _variants(stage: int) -> Iterator[tuple[Variant, Data]]:
    """Variants of one stage, each with the data that it is trained on, in order."""
    if stage == 1:
        return iter(product(_methods(stage), DATA))
    if stage == 2:
        return chain(product(_methods(stage), DATA), product(_full_rates(), DATA[:1]))
    return ((variant, name) for name in DATA for variant in sweeps(name))


def _methods(stage: int) -> list[Variant]:
    if stage == 1:
        return [
            Variant(method="dense", heads=1),
            Variant(method="full_ensemble"),
            Variant(method="treenet"),
            Variant(method="neurotrails", density=0.2),
            Variant(method="neurotrails", density=0.1),
        ]
    others: tuple[Method, ...] = ("static_sparse", "dst_ensemble", "edst_ensemble")
    return [
        Variant(method="neurotrails", density=0.2, from_dense=True),
        *(Variant(method=method, density=0.2) for method in others),
    ]


def _full_rates() -> list[Variant]:
    """What a head learns at the rate of a network of its own; only for SGD: Adam does not depend on a loss's scale."""
    return [
        Variant(method="treenet", full_rate=True),
        Variant(method="neurotrails", density=0.2, full_rate=True),
        Variant(method="neurotrails", density=0.2, from_dense=True, full_rate=True),
    ]


def sweeps(data: Data) -> list[Variant]:
    """NeuroTrails with one thing changed at a time: blocks in a head, density, heads, sparse embeddings of texts.

    What stage 1 trains already comes out as the very same variant.
    """
    blocks = [index if index != BLOCKS_IN_HEAD[data] else None for index in range(BLOCKS[data] + 1)]
    return [
        *(Variant(method="neurotrails", density=0.2, blocks_in_head=index) for index in blocks),
        *(Variant(method="neurotrails", density=density) for density in (0.05, 0.1, 0.2, 0.5)),
        *(Variant(method="neurotrails", density=0.2, heads=heads) for heads in (2, 3, 5)),
        *([Variant(method="neurotrails", density=0.2, embeddings=True)] if data == "newsgroups" else []),
    ]


def _check(option: str, asked: Sequence[object], known: Sequence[object]) -> None:
    unknown = [str(value) for value in asked if value not in known]
    if unknown:
        raise GridError(f"{option} {' '.join(unknown)} is not in the grid; choose from {', '.join(map(str, known))}.")
