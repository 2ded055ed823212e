"""The verb `evaluate` on genuine tiny runs: what it writes is what the logits say."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from runtime.vote import pool, temper
from training.batches import Batches
from training.calibration import calibrate, early_exit_curve
from training.checkpoint import Checkpoint
from training.errors import ConfigError
from training.evaluate import collect_logits, evaluate, evaluate_checkpoint
from training.evaluation.agreement import agreement
from training.evaluation.document import Evaluation
from training.metrics import quality
from training.preparation import held_out_parts


def logits_and_targets(run: Path, part: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    checkpoint = Checkpoint.open(run)
    network, _ = checkpoint.network()
    parts, preprocessor = held_out_parts(checkpoint)
    return collect_logits(network, Batches(parts[part], preprocessor, 7)), parts[part].targets


@pytest.mark.parametrize("run", ["image_run", "text_run"])
def test_what_is_written_is_what_the_logits_say(
    run: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    folder: Path = request.getfixturevalue(run)
    evaluate(str(folder), part="report")
    printed = capsys.readouterr().out
    checkpoint = Checkpoint.open(folder)
    written = Evaluation.model_validate_json((checkpoint.folder / "evaluation-report.json").read_bytes())
    (checkpoint.folder / "evaluation-report.json").unlink()

    fit, fit_targets = logits_and_targets(folder, "calibrate")
    own, targets = logits_and_targets(folder, "report")
    calibration = calibrate(fit, fit_targets, split="calibrate")
    assert written.calibration.order == calibration.order
    assert written.calibration.temperatures == pytest.approx(calibration.temperatures, rel=1e-4)
    assert (written.part, written.rows, written.vote) == ("report", len(targets), "probabilities")
    for found, how in zip(written.votes, ("probabilities", "logits"), strict=True):
        assert found.vote == how
        pooled = pool(own, found.vote)
        assert dict(found.before) == pytest.approx(dict(quality(pooled, targets)), rel=1e-4, abs=1e-6)
        after = quality(temper(pooled, found.temperature), targets)
        assert dict(found.after) == pytest.approx(dict(after), rel=1e-4, abs=1e-6)
    assert written.votes[0].temperature == pytest.approx(written.calibration.temperatures[-1], rel=1e-6)
    for head in written.heads:
        assert head.before.accuracy == (own[head.head].argmax(axis=-1) == targets).mean()
    assert dict(written.first_heads[-1]) == pytest.approx(dict(written.votes[0].after))
    assert written.first_heads[0].accuracy == written.heads[calibration.order[0]].after.accuracy
    assert written.agreement.disagreement == agreement(own).disagreement
    exits = early_exit_curve(own, targets, written.calibration, split="report")
    assert [point.accuracy for point in written.early_exit.points] == [point.accuracy for point in exits.points]
    assert written.risk.points[-1].risk == pytest.approx(1 - written.votes[0].before.accuracy)
    assert written.detection is None
    assert written.robustness is None
    assert f"{written.votes[1].before.accuracy:.4f}" in printed
    assert "dense single network" in printed


def test_another_data_set_and_corruptions_are_measured_when_asked_for(
    image_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("imagecorruptions", exc_type=ImportError)  # OpenCV wants libGL, which small systems lack
    generator = np.random.default_rng(0)
    for index in range(8):
        (tmp_path / "noise" / str(index % 2)).mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        image.save(tmp_path / "noise" / str(index % 2) / f"{index}.png")
    evaluate(
        str(image_run), part="select", against=f"image-folder={tmp_path / 'noise'}", corruptions=True,
        corruption_rows=5, json=True,
    )  # fmt: skip
    out = capsys.readouterr().out
    found = Evaluation.model_validate_json(out)
    path = Checkpoint.open(image_run).folder / "evaluation-select.json"
    assert path.read_text() == out
    path.unlink()
    assert found.detection is not None
    assert found.robustness is not None
    assert (found.detection.rows, found.robustness.rows) == (8, 5)
    assert found.detection.source == "image folder noise"
    assert len(found.robustness.corruptions) == 15


def test_texts_of_another_table_are_told_from_known_ones(text_run: Path, tmp_path: Path) -> None:
    """Half of the other texts are made of words that the network has never seen."""
    lines = [f"{text},{label}" for text in ("zebra quartz", "the old root") for label in ("a", "b")]
    (tmp_path / "other.csv").write_text("text,label\n" + "\n".join(lines) + "\n")
    found = evaluate_checkpoint(Checkpoint.open(text_run), "report", against=f"text-table={tmp_path / 'other.csv'}")
    assert found.detection is not None
    assert (found.detection.rows, found.detection.source) == (4, "text table other.csv")


def test_the_same_checkpoint_gives_the_same_evaluation(text_run: Path) -> None:
    checkpoint = Checkpoint.open(text_run)
    assert evaluate_checkpoint(checkpoint, "report") == evaluate_checkpoint(checkpoint, "report")


def test_the_vote_of_logits_can_be_the_one_that_is_described(text_run: Path) -> None:
    found = evaluate_checkpoint(Checkpoint.open(text_run), "report", vote="logits")
    fit, targets = logits_and_targets(text_run, "calibrate")
    assert found.calibration.order == calibrate(fit, targets, split="calibrate", vote="logits").order
    assert found.calibration.temperatures[-1] == pytest.approx(found.votes[1].temperature)


def test_one_head_and_no_trunk_are_evaluated(image_recipe: Path, tmp_path: Path) -> None:
    from training.train import train

    train(str(image_recipe), "method=dense", "epochs=1", run=str(tmp_path / "run"))
    found = evaluate_checkpoint(Checkpoint.open(tmp_path / "run"), "report")
    assert len(found.heads) == len(found.first_heads) == 1
    assert (found.agreement.mean_disagreement, found.agreement.mean_kl) == (None, None)
    assert found.calibration.order == (0,)
    assert found.votes[0].before == found.heads[0].before
    assert found.method == "dense"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"part": "test"}, "no part 'test' of this data; choose one of select, calibrate, report"),
        ({"part": "report", "device": "cuda:99"}, "device 'cuda:99' cannot be used"),
        ({"part": "report", "device": "abacus"}, "device 'abacus' cannot be used"),
    ],
)
def test_what_cannot_be_measured_is_an_error(image_run: Path, arguments: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate(str(image_run), **arguments)  # type: ignore[arg-type]


def test_logits_of_a_float64_network_are_rounded_to_float32(image_run: Path) -> None:
    checkpoint = Checkpoint.open(image_run)
    network, _ = checkpoint.network()
    parts, preprocessor = held_out_parts(checkpoint)
    batches = Batches(parts["report"], preprocessor, 64)
    expected = collect_logits(network, batches)
    network.to(torch.float64).train()
    found = collect_logits(network, batches)
    assert found.dtype == np.float32
    assert network.training
    np.testing.assert_allclose(found, expected, atol=1e-4)
