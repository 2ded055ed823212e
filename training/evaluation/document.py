"""The document that `neurotrails evaluate` writes: frozen typed objects, evaluation-PART.json beside the checkpoint.

Heads are counted as in the checkpoint, from 0; matrices are [head][head]. NLL and KL are in nats, Brier is summed over
classes. What each number means, and where it comes from, is in docs/evaluation.md.
"""

from runtime.manifest import Calibration, Count, EarlyExit, Fraction, Record
from runtime.vote import Vote
from training.metrics import Quality


class Calibrated(Record):
    """Probabilities before and after temperature scaling on the calibrate part."""

    temperature: float
    before: Quality
    after: Quality


class VoteQuality(Calibrated):
    """One way for all heads to vote."""

    vote: Vote


class HeadQuality(Calibrated):
    """One head alone, with a temperature of its own."""

    head: Count


class Agreement(Record):
    """How heads differ on the same rows; means are over pairs of different heads, null for one head."""

    disagreement: tuple[tuple[Fraction, ...], ...]
    """Fraction of rows on which the top classes of two heads differ."""
    mean_disagreement: Fraction | None
    kl: tuple[tuple[float, ...], ...]
    """KL(row head || column head) of uncalibrated probabilities, mean over rows."""
    mean_kl: float | None


class RiskPoint(Record):
    """Fraction of rows that are answered, the most confident ones first, and the fraction of these that is wrong."""

    coverage: Fraction
    risk: Fraction


class RiskCoverage(Record):
    """What refusing to answer is worth, by the vote's confidence."""

    aurc: Fraction
    """Area under the whole risk-coverage curve; lower is better."""
    points: tuple[RiskPoint, ...]


class Detection(Record):
    """How well the vote's confidence tells rows of this data from rows of another data set."""

    against: str
    source: str
    sha256: str
    rows: Count
    """Rows of the other data set."""
    auroc: Fraction
    fpr95: Fraction
    """Fraction of the other rows that pass where 95 % of this data's rows do; lower is better."""


class Corrupted(Record):
    """The calibrated vote under one corruption, at severities 1 to 5."""

    corruption: str
    accuracy: tuple[Fraction, ...]
    ece: tuple[float, ...]


class Robustness(Record):
    """The common corruptions at severities 1 to 5, on the first rows of a seeded permutation of the part."""

    library: str
    """Name and version of the package that made them."""
    rows: Count
    seed: int
    clean_accuracy: Fraction
    """On the same rows, as they are."""
    mean_accuracy: Fraction
    """Mean over all corruptions and severities."""
    corruptions: tuple[Corrupted, ...]

    def accuracy_at(self, severity: int) -> float:
        """Mean accuracy over the corruptions at one severity, 1 to 5."""
        return sum(own.accuracy[severity - 1] for own in self.corruptions) / len(self.corruptions)


class StageCost(Record):
    """MACs of one example through one stage: of layers with weights, all and kept ones, and of everything else."""

    stage: str
    dense_macs: Count
    effective_macs: Count
    activation_macs: Count


class Cost(Record):
    """What the network holds and takes, beside one dense network of the same kind (one head, nothing pruned)."""

    parameters: Count
    """All of the network's trained numbers, with those that no mask keeps."""
    weights: Count
    """Entries of weights that the sparsity budget covers."""
    kept: Count
    nonzero: Count
    """Kept entries that are not zero by value."""
    stages: tuple[StageCost, ...]
    single_parameters: Count
    single_weights: Count
    single_macs: Count
    relative_weights: float
    """Kept weights over the weights of the dense single network."""
    relative_macs: float
    """Inference with kept weights, over that of the dense single network."""
    training_macs: Count | None
    """Of the whole run; null where it was not counted."""
    relative_training_macs: float | None
    """Over training the dense single network for the recipe's epochs; null until the run is finished."""

    @property
    def effective_macs(self) -> int:
        """MACs of one example through trunk and heads with kept weights."""
        return sum(stage.effective_macs + stage.activation_macs for stage in self.stages)

    @property
    def dense_macs(self) -> int:
        """MACs of one example through trunk and heads with all weights."""
        return sum(stage.dense_macs + stage.activation_macs for stage in self.stages)


class Evaluation(Record):
    """Everything that is measured on one part of a run's data."""

    name: str
    """Of the run."""
    method: str
    step: Count
    part: str
    rows: Count
    vote: Vote
    """The vote that calibration, early exits, risk, detection and corruptions are about."""
    votes: tuple[VoteQuality, ...]
    """Both ways to vote, of all heads."""
    heads: tuple[HeadQuality, ...]
    agreement: Agreement
    calibration: Calibration
    """Order of the heads, and a temperature for each number of them."""
    first_heads: tuple[Quality, ...]
    """The calibrated vote of the first 1, 2, ... heads in that order."""
    early_exit: EarlyExit
    risk: RiskCoverage
    detection: Detection | None = None
    robustness: Robustness | None = None
    cost: Cost
    code_version: str
