"""The page of genuine runs: what it says, that it holds nothing foreign, and that it copes with half a run."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from neurotrails import main
from runtime.vote import softmax
from tests.conftest import IMAGE_RECIPE, train_in_a_process
from tests.pages import Reader
from training.checkpoint import Checkpoint
from training.errors import CheckpointError
from training.evaluate import logits_of
from training.preparation import held_out_parts
from training.report.findings import divergence, most_confident_errors, most_disputed, reliability
from training.report.log import read_log
from training.report.report import report

HOSTILE = "<script>alert(1)<_script>&\"'"


def page_of(run: Path, tmp_path: Path, **options: str) -> str:
    file = tmp_path / "page.html"
    report(str(run), output=str(file), **options)  # type: ignore[arg-type]
    return file.read_text()


@pytest.fixture(scope="module")
def hostile_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of which one class has a name that would be a script, if it were not escaped."""
    folder = tmp_path_factory.mktemp("hostile")
    generator = np.random.default_rng(0)
    for index in range(60):
        kind = ("plain", HOSTILE)[index % 2]
        (folder / kind).mkdir(exist_ok=True)
        pixels = generator.integers(0, 255, size=(12, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / kind / f"{index}.png")
    recipe = tmp_path_factory.mktemp("recipes") / "hostile.yaml"
    recipe.write_text(IMAGE_RECIPE.replace("PATH", str(folder)))
    return train_in_a_process(recipe, tmp_path_factory.mktemp("runs") / "hostile", "epochs=4", "batch_size=4")


def test_the_page_is_whole_and_refers_to_nothing_outside(hostile_run: Path, tmp_path: Path) -> None:
    html = page_of(hostile_run, tmp_path)
    reader = Reader(html)
    assert "script" not in reader.tags
    assert "http:" not in html
    assert "https:" not in html
    assert "@import" not in html
    assert "url(" not in html
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in html
    assert reader.tags.count("h1") == 1
    assert reader.tags.count("img") > 0
    for title in ("Loss", "Learning rate", "Prune rate", "Explored weights", "Density, trunk", "Explored, head 2",
                  "Early exit", "Risk and coverage", "Before calibration", "After calibration"):  # fmt: skip
        assert title in reader.text
    for svg in re.findall(r"<svg [^>]*>", html):
        assert 'aria-label="' in svg or 'aria-hidden="true"' in svg
    assert all('alt="' in image for image in re.findall(r"<img [^>]*>", html))


def test_the_same_run_gives_the_same_bytes(image_run: Path, tmp_path: Path) -> None:
    assert page_of(image_run, tmp_path) == page_of(image_run, tmp_path)


def test_hostile_names_are_text(hostile_run: Path, tmp_path: Path) -> None:
    reader = Reader(page_of(hostile_run, tmp_path))
    assert "script" not in reader.tags
    assert HOSTILE in reader.text


def test_hostile_and_long_texts_are_text_and_cut(tmp_path: Path, text_recipe: Path) -> None:
    table = tmp_path / "words.csv"
    lines = (text_recipe.parent / "words.csv").read_text().splitlines()
    lines[1:] = ["<img src=x onerror=alert(1)> " * 30 + line for line in lines[1:]]
    table.write_text("\n".join(lines) + "\n")
    recipe = tmp_path / "words.yaml"
    recipe.write_text(text_recipe.read_text().replace(str(text_recipe.parent / "words.csv"), str(table)))
    html = page_of(train_in_a_process(recipe, tmp_path / "run", "epochs=1"), tmp_path)
    reader = Reader(html)
    assert "img" not in reader.tags
    assert any(text.startswith("<img src=x onerror=alert(1)> <img") and text.endswith("…") for text in reader.text)
    assert any(text.startswith("first 600 of ") for text in reader.text)


def test_the_numbers_are_those_of_the_logits(image_run: Path, tmp_path: Path) -> None:
    text = Reader(page_of(image_run, tmp_path)).text
    checkpoint = Checkpoint.open(image_run)
    parts, preprocessor = held_out_parts(checkpoint)
    network, masks = checkpoint.network()
    logits, targets = logits_of(network, parts["report"], preprocessor), parts["report"].targets
    first = logits.argmax(axis=2)
    voted = softmax(logits).mean(axis=0).argmax(axis=1)
    start = text.index("Disagreement: share of rows on which two heads differ in their first choice, "
                       "and the accuracy of each head")  # fmt: skip
    matrix = text[start + 1 : start + 1 + 4 + 3 * 4]
    assert matrix[:4] == ["head 0", "head 1", "head 2", "accuracy"]
    for head in range(3):
        differs = [f"{np.mean(first[head] != first[other]):.2%}" for other in range(3) if other != head]
        assert matrix[4 + 4 * head :][:4] == [f"head {head}", *differs, f"{np.mean(first[head] == targets):.2%}"]
    assert text[text.index("accuracy on the report part") + 1] == f"{np.mean(voted == targets):.2%}"
    kept = sum(int(mask.sum()) for mask in masks.values())
    dense = sum(
        p.numel() for n, p in network.named_parameters() if n.endswith(".weight") and p.ndim > 1 and n not in masks
    )
    total = dense + sum(mask.numel() for mask in masks.values())
    assert text[text.index("weights kept") + 1] == f"{kept + dense:,} of {total:,}"
    labels = checkpoint.description.labels
    counts = [[int(np.sum((targets == a) & (voted == b))) for b in range(3)] for a in range(3)]
    expected = ["true class", *labels, "found"]
    for label, line, own in zip(labels, counts, range(3), strict=True):
        expected += [label, *(f"{count:,}" for count in line if count), f"{line[own] / sum(line):.1%}"]
    start = text.index("true class")
    assert text[start : start + len(expected)] == expected


def test_a_run_without_its_data_still_has_its_curves(hostile_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(hostile_run, run)
    for path in run.glob("checkpoints/*/config.json"):
        document = json.loads(path.read_text())
        document["config"]["data"]["path"] = str(tmp_path / "gone")
        path.write_text(json.dumps(document))
    text = Reader(page_of(run, tmp_path)).text
    assert any(t.startswith("Everything that needs the data is left out.") and "gone" in t for t in text)
    assert text.count("Needs the weights and the data of the run; see “What is missing” at the top.") == 4
    assert "Learning rate" in text
    assert "Density, head 1" in text


def test_an_unfinished_run_says_what_is_missing(image_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    log = (image_run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(log[:-20])
    text = Reader(page_of(run, tmp_path)).text
    assert any(t.startswith("1 line of metrics.jsonl") for t in text)
    assert any(t.startswith("There is no checkpoint yet") for t in text)
    assert "Accuracy on the select part" in text
    assert len(read_log(run).evaluations) == len(read_log(image_run).evaluations) - 1


def test_a_folder_without_a_run_is_an_error_and_an_old_page_stays(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("old")
    with pytest.raises(CheckpointError, match="holds no run"):
        report(str(tmp_path), output=str(page))
    assert page.read_text() == "old"


def test_members_share_their_curves(image_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = train_in_a_process(image_recipe, tmp_path / "run", "method=dst_ensemble", "epochs=1", "ensemble.heads=2")
    assert main(["report", str(run), "--part", "test"]) == 1
    assert "no part 'test'" in capsys.readouterr().err
    assert main(["report", str(run)]) == 0
    text = Reader((run / "report.html").read_text()).text
    assert "member 1" in text
    assert "Density, member 0" in text
    assert "dst_ensemble" in text


def test_a_single_head_shows_its_errors(image_recipe: Path, tmp_path: Path) -> None:
    run = train_in_a_process(image_recipe, tmp_path / "run", "method=dense", "epochs=1")
    text = Reader(page_of(run, tmp_path)).text
    assert "There is one head, so nothing can disagree." in text
    assert "The most confident errors" in text
    assert "Early exit" not in text


def test_findings_are_what_their_definitions_say() -> None:
    generator = np.random.default_rng(0)
    logits = (3 * generator.normal(size=(3, 50, 4))).astype(np.float32)
    targets = generator.integers(0, 4, 50)
    probabilities = softmax(logits)
    pooled = probabilities.mean(axis=0)
    bins = reliability(pooled, targets, 15)
    confidence, right = pooled.max(axis=1), pooled.argmax(axis=1) == targets
    for index in range(15):
        rows = [row for row in range(50) if index / 15 <= confidence[row] < (index + 1) / 15]
        assert bins.rows[index] == len(rows)
        if rows:
            assert bins.accuracy[index] == pytest.approx(np.mean(right[rows]))
            assert bins.confidence[index] == pytest.approx(np.mean(confidence[rows]))
    mean_kl = [
        np.mean([np.sum(head[row] * np.log(head[row] / pooled[row])) for head in probabilities]) for row in range(50)
    ]
    np.testing.assert_allclose(divergence(logits), mean_kl, atol=1e-12)
    first = logits.argmax(axis=2)
    score = [(len({(a, b) for a in range(3) for b in range(3) if first[a, row] != first[b, row]}), mean_kl[row])
             for row in range(50)]  # fmt: skip
    assert most_disputed(logits, 7).tolist() == sorted(range(50), key=lambda row: score[row], reverse=True)[:7]
    wrong = [row for row in np.argsort(-confidence) if not right[row]]
    assert most_confident_errors(logits, targets, 5).tolist() == wrong[:5]
