"""The load test against a running service: right answers pass, and a wrong one is counted as a failure."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server.inputs import image_file, text
from tests.server.service import Direct, Service

pytestmark = pytest.mark.parametrize("engine_name", ["onnxruntime"], scope="session", indirect=True)  # all answer alike

LOCUSTFILE = Path(__file__).parents[2] / "benchmarks" / "locustfile.py"


@pytest.fixture
def examples(tmp_path: Path, images: Direct, texts: Direct) -> Path:
    """A folder of examples whose labels are what the tiny models say."""
    folder = tmp_path / "examples"
    folder.mkdir()
    expected = {}
    for seed in range(4):
        (folder / f"{seed}.png").write_bytes(image_file(seed))
        (folder / f"{seed}.txt").write_text(text(seed))
        label = images.labels[images.predict(image_file(seed)).top(1)[0]]
        expected[f"{seed}.png"] = {"model": "tiny-image", "label": label}
        label = texts.labels[texts.predict(text(seed)).top(1)[0]]
        expected[f"{seed}.txt"] = {"model": "tiny-text", "label": label}
    (folder / "expected.json").write_text(json.dumps(expected))
    return folder


def locust(service: Service, examples: Path, *users: str) -> tuple[subprocess.CompletedProcess[str], dict[str, int]]:
    """Run Locust headless for a moment: its process, and the failures by name of request."""
    table = examples.parent / "run"
    command = [
        sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), *users, "--host", str(service.client.base_url),
        "--headless", "-u", "4", "-r", "4", "-t", "3s", "--stop-timeout", "60",
        "--examples", str(examples), "--csv", str(table), "--only-summary",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    failures = {}
    if (stats := table.with_name("run_stats.csv")).exists():
        with stats.open(newline="") as file:
            for row in csv.DictReader(file):
                assert int(row["Request Count"]) > 0
                failures[row["Name"]] = int(row["Failure Count"])
    return done, failures


def test_right_answers_pass(service: Service, examples: Path) -> None:
    done, failures = locust(service, examples)
    assert done.returncode == 0, done.stdout + done.stderr
    assert failures == {"/predict?model=tiny-image": 0, "/predict?model=tiny-text": 0, "Aggregated": 0}


def test_a_wrong_answer_is_a_failure(service: Service, examples: Path, texts: Direct) -> None:
    expected = json.loads((examples / "expected.json").read_text())
    right = expected["0.txt"]["label"]
    expected["0.txt"]["label"] = next(label for label in texts.labels if label != right)
    (examples / "expected.json").write_text(json.dumps(expected))
    done, failures = locust(service, examples)
    assert done.returncode == 1, done.stdout + done.stderr
    assert failures["/predict?model=tiny-image"] == 0
    assert failures["/predict?model=tiny-text"] > 0
    assert f"0.txt: tiny-text says ['{right}']" in done.stdout + done.stderr


def test_a_refusal_is_a_failure(service: Service, examples: Path) -> None:
    (examples / "0.txt").write_text(" ")
    done, failures = locust(service, examples, "TextUser")
    assert done.returncode == 1
    assert failures["/predict?model=tiny-text"] > 0
    assert "status 400" in done.stdout + done.stderr


def test_missing_examples_are_named(service: Service, tmp_path: Path) -> None:
    done, failures = locust(service, tmp_path / "nowhere")
    assert done.returncode != 0
    assert failures == {}
    assert "expected.json" in done.stderr
    assert "--examples" in done.stderr
