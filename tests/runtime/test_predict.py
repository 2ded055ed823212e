import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from neurotrails import main
from runtime.artifact import Artifact
from runtime.engines import load_engine
from runtime.engines.base import EngineOptions
from runtime.predictor import Prediction, Predictor
from tests.engines import ENGINE_NAMES
from tests.runtime.conftest import CORES


@pytest.fixture(params=ENGINE_NAMES)
def engine_name(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def options(engine_name: str) -> list[str]:
    return ["--engine", engine_name, "--cores", str(CORES)]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for index in range(3):
        pixels = generator.integers(0, 256, (12, 12), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return [str(path) for path in sorted(folder.iterdir())]


def _direct(artifact: Artifact, engine_name: str, data: bytes) -> Prediction:
    engine = load_engine(artifact, engine_name, EngineOptions(cores=CORES, batch_sizes=(1,)))
    prediction = Predictor(artifact, engine).predict([artifact.preprocessor.prepare(data)]).predictions[0]
    engine.close()
    return prediction


def test_images(
    image_artifact: Artifact,
    engine_name: str,
    options: list[str],
    pictures: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["predict", str(image_artifact.folder), *pictures, *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(pictures) * 4
    for index, name in enumerate(pictures):
        expected = _direct(image_artifact, engine_name, Path(name).read_bytes())
        best = expected.top(1)[0]
        label = image_artifact.manifest.labels[best]
        assert lines[4 * index].startswith(f"{name}: {label} {expected.probabilities[best]:.1%}; 3 of 3 heads (all)")
        assert f"disagreement {expected.disagreement:.2f}" in lines[4 * index]
        for head, probabilities in enumerate(expected.head_probabilities):
            top = int(probabilities.argmax())
            opinion = f"  head {head}: {image_artifact.manifest.labels[top]} {probabilities[top]:.1%}"
            assert lines[4 * index + 1 + head] == opinion


def test_json(
    image_artifact: Artifact,
    engine_name: str,
    options: list[str],
    pictures: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["predict", str(image_artifact.folder), *pictures, *options, "--json", "--top-k", "9", "--heads", "2"]
    assert main(arguments) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["model"], document["engine"], document["vote"]) == ("tiny-image", engine_name, "probabilities")
    assert [entry["input"] for entry in document["predictions"]] == pictures
    for entry in document["predictions"]:
        probabilities = [each["probability"] for each in entry["top_k"]]
        assert probabilities == sorted(probabilities, reverse=True)
        assert sum(probabilities) == pytest.approx(1)
        assert {each["label"] for each in entry["top_k"]} == set(image_artifact.manifest.labels)
        assert (entry["label"], entry["probability"]) == (entry["top_k"][0]["label"], probabilities[0])
        assert (entry["heads_used"], entry["heads_total"], entry["stopped_by"]) == (2, 3, "requested")
        assert [head["head"] for head in entry["heads"]] == [0, 1]


def test_text_from_the_standard_input(
    text_artifact: Artifact,
    engine_name: str,
    options: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = b"the ball game and the goal\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    arguments = ["predict", str(text_artifact.folder), "-", *options, "--min-confidence", "0", "--json"]
    assert main(arguments) == 0
    [entry] = json.loads(capsys.readouterr().out)["predictions"]
    head = _direct(text_artifact, engine_name, data).head_probabilities[0]
    assert entry["input"] == "-"
    assert entry["label"] == text_artifact.manifest.labels[int(head.argmax())]
    assert (entry["heads_used"], entry["stopped_by"], entry["disagreement"]) == (1, "early_exit", None)


def test_one_head_has_no_disagreement(
    text_artifact: Artifact, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.txt").write_text("energy of the atom")
    name = str(tmp_path / "text.txt")
    assert main(["predict", str(text_artifact.folder), name, *options, "--heads", "1"]) == 0
    [vote, _] = capsys.readouterr().out.splitlines()
    assert vote.endswith("; 1 of 3 heads (requested)")


def test_the_notes_of_the_engine_are_no_part_of_the_answer(
    image_artifact: Artifact,
    engine_name: str,
    options: list[str],
    pictures: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["predict", str(image_artifact.folder), *pictures, *options, "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["engine"] == engine_name
    assert ("not for production use" in captured.err) == (engine_name == "deepsparse")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "nothing to predict"),
        (["nowhere.png"], "'nowhere.png' cannot be read: No such file"),
        (["--no-such-option"], "'--no-such-option' cannot be read"),
        ([__file__], "test_predict.py': The data is not an image"),
        (["PICTURE", "--heads", "4"], "heads must be from 1 to 3"),
        (["PICTURE", "--min-confidence", "2"], "min_confidence must be from 0 to 1"),
        (
            ["PICTURE", "--target-accuracy", "2"],
            "target_accuracy must be reached by the exit table of this model, and 2 is not",
        ),
        (["PICTURE", "--engine", "onnxruntime", "--precision", "int4"], "onnxruntime does not execute in int4"),
        (["PICTURE", "--top-k", "0"], "top_k must be at least 1, not 0"),
        (["PICTURE", "--engine", "abacus"], "no engine 'abacus'"),
        (["PICTURE", "--cores", "0"], "cores and streams must be at least 1"),
    ],
)
def test_errors(
    image_artifact: Artifact,
    pictures: list[str],
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    problem: str,
) -> None:
    given = [pictures[0] if argument == "PICTURE" else argument for argument in arguments]
    assert main(["predict", str(image_artifact.folder), *given]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("neurotrails predict: ")
    assert problem in captured.err
