"""An evaluation as tables for people."""

from runtime.table import Cells, table
from training.evaluation.document import Calibrated, Cost, Detection, Evaluation, Robustness
from training.metrics import Quality

QUALITY = ("accuracy", "nll", "brier", "ece", "adaptive ece")


def render(evaluation: Evaluation) -> list[str]:
    """Lines of the tables."""
    sections = [
        [
            f"{evaluation.name} ({evaluation.method}), step {evaluation.step}: {evaluation.part} part, "
            f"{evaluation.rows:,} rows; calibrated on {evaluation.calibration.rows:,} rows of "
            f"{evaluation.calibration.split}"
        ],
        _quality(evaluation),
        _agreement(evaluation),
        _early_exits(evaluation),
        [f"risk and coverage: AURC {evaluation.risk.aurc:.5f}"],
        _detection(evaluation.detection) if evaluation.detection else [],
        _robustness(evaluation.robustness) if evaluation.robustness else [],
        _cost(evaluation.cost),
    ]
    return "\n\n".join("\n".join(section) for section in sections if section).split("\n")


def _quality(evaluation: Evaluation) -> list[str]:
    named: list[tuple[str, Calibrated]] = [(f"vote of {own.vote}", own) for own in evaluation.votes]
    named += [(f"head {own.head}", own) for own in evaluation.heads]
    rows: list[Cells] = [("", "temperature", *QUALITY)]
    for name, own in named:
        rows.append((name, "-", *_numbers(own.before)))
        rows.append((f"{name}, calibrated", f"{own.temperature:.3f}", *_numbers(own.after)))
    return table(rows)


def _numbers(quality: Quality) -> Cells:
    return tuple(
        f"{value:.4f}" for value in (quality.accuracy, quality.nll, quality.brier, quality.ece, quality.adaptive_ece)
    )


def _agreement(evaluation: Evaluation) -> list[str]:
    own = evaluation.agreement
    if own.mean_disagreement is None or own.mean_kl is None:
        return []
    names = [f"head {index}" for index in range(len(own.disagreement))]
    rows: list[Cells] = [("disagreement | KL", *names, *names)]
    for name, different, divergence in zip(names, own.disagreement, own.kl, strict=True):
        rows.append((name, *(f"{value:.4f}" for value in different), *(f"{value:.4f}" for value in divergence)))
    return [*table(rows), f"mean over pairs: disagreement {own.mean_disagreement:.4f}, KL {own.mean_kl:.4f} nats"]


def _early_exits(evaluation: Evaluation) -> list[str]:
    order = evaluation.calibration.voting_order
    firsts: list[Cells] = [("first heads", "temperature", *QUALITY)]
    for count, quality in enumerate(evaluation.first_heads, start=1):
        heads = ", ".join(map(str, order[:count]))
        firsts.append((heads, f"{evaluation.calibration.temperatures[count - 1]:.3f}", *_numbers(quality)))
    exits: list[Cells] = [("min. confidence", "accuracy", "mean heads")]
    exits += [
        (f"{point.min_confidence:g}", f"{point.accuracy:.4f}", f"{point.mean_heads:.3f}")
        for point in evaluation.early_exit.points
    ]
    return [*table(firsts), "", *table(exits)]


def _detection(detection: Detection) -> list[str]:
    return [
        f"against {detection.against} ({detection.rows:,} rows): AUROC {detection.auroc:.4f}, "
        f"FPR95 {detection.fpr95:.4f}"
    ]


def _robustness(robustness: Robustness) -> list[str]:
    rows: list[Cells] = [("accuracy at severity", "1", "2", "3", "4", "5", "mean")]
    for own in robustness.corruptions:
        mean = sum(own.accuracy) / len(own.accuracy)
        rows.append((own.corruption, *(f"{value:.4f}" for value in own.accuracy), f"{mean:.4f}"))
    means = [f"{robustness.accuracy_at(severity):.4f}" for severity in range(1, 6)]
    rows.append(("mean", *means, f"{robustness.mean_accuracy:.4f}"))
    return [*table(rows), f"{robustness.rows:,} rows, {robustness.clean_accuracy:.4f} without corruption"]


def _cost(cost: Cost) -> list[str]:
    rows: list[Cells] = [("stage", "dense MACs", "effective", "other")]
    for stage in cost.stages:
        macs = (stage.dense_macs, stage.effective_macs, stage.activation_macs)
        rows.append((stage.stage, *(f"{value:,}" for value in macs)))
    training = "not counted" if cost.training_macs is None else f"{cost.training_macs:.4g}"
    if cost.relative_training_macs is not None:
        training += f", {cost.relative_training_macs:.3f} of the dense single network's"
    return [
        *table(rows),
        f"weights {cost.kept:,} of {cost.weights:,} kept, {cost.nonzero:,} not zero: {cost.relative_weights:.3f} of "
        f"the dense single network's {cost.single_weights:,}",
        f"inference {cost.effective_macs:,} MACs: {cost.relative_macs:.3f} of the dense single network's "
        f"{cost.single_macs:,}",
        f"training MACs {training}",
    ]
