"""The unmodified tritonclient, without options of ours, gets the right answers of both shipped models."""

import base64
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import json_format

from runtime.predictor import Prediction
from tests.server.service import Direct, Service

SESSION = Path(__file__).with_name("tritonclient_session.py")
EXPECTED = json.loads(Path("examples/expected.json").read_text())
FILES = [name for name, answer in EXPECTED.items() if answer["model"] == "fashion-mnist"]
TEXTS = [name for name, answer in EXPECTED.items() if answer["model"] == "newsgroups"]
ENGINE = "onnxruntime"


@pytest.fixture(scope="module")
def images() -> Iterator[Direct]:
    direct = Direct(Path("models/fashion-mnist"), ENGINE)
    yield direct
    direct.close()


@pytest.fixture(scope="module")
def texts() -> Iterator[Direct]:
    direct = Direct(Path("models/newsgroups"), ENGINE)
    yield direct
    direct.close()


@pytest.fixture(scope="module")
def session(shipped: Service, images: Direct, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a client saw in one session."""
    files = [Path("examples", name).read_bytes() for name in FILES]
    requests = {
        "image_model": "fashion-mnist",
        "files": [base64.b64encode(file).decode() for file in files],
        "ready": [images.artifact.preprocessor.prepare(file)["image"].tolist() for file in files],
        "text_model": "newsgroups",
        "texts": [Path("examples", name).read_text() for name in TEXTS],
    }
    path = tmp_path_factory.mktemp("tritonclient") / "requests.json"
    path.write_text(json.dumps(requests))
    command = [sys.executable, str(SESSION), f"127.0.0.1:{shipped.port}", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def check(told: dict[str, Any], names: list[str], predictions: list[Prediction], heads: int) -> None:
    assert told["label"] == [EXPECTED[name]["label"] for name in names] or heads < 3
    assert told["index"] == [prediction.top(1)[0] for prediction in predictions]
    assert told["heads_used"] == [prediction.heads_used for prediction in predictions]
    np.testing.assert_allclose(told["probabilities"], [p.probabilities for p in predictions], atol=1e-5)
    if "head_probabilities" in told:
        np.testing.assert_allclose(told["head_probabilities"], [p.head_probabilities for p in predictions], atol=1e-5)
        assert np.shape(told["head_probabilities"]) == (len(names), heads, predictions[0].probabilities.size)


@pytest.mark.parametrize("which", range(4))
@pytest.mark.parametrize("kind", ["files", "texts"])
def test_answers(session: dict[str, Any], images: Direct, texts: Direct, kind: str, which: int) -> None:
    names, direct = (FILES, images) if kind == "files" else (TEXTS, texts)
    heads = 1 if which == 3 else 3
    data = [Path("examples", name) for name in names]
    predictions = [
        direct.predict(path.read_bytes() if kind == "files" else path.read_text(), heads=heads) for path in data
    ]
    told = session[kind][which]
    check(told, names, predictions, heads)
    assert (told["id"] == "my request") == (which == 3)
    assert set(told["stopped_by"]) == ({"requested"} if which == 3 else {"all"})


def test_every_way_gives_the_same(session: dict[str, Any]) -> None:
    def without_id(told: dict[str, Any]) -> dict[str, Any]:
        return {
            name: values for name, values in told.items() if name not in ("id", "probabilities", "head_probabilities")
        }

    for way, kind in (("in_json", "texts"), ("asyncio", "texts"), ("ready", "files"), ("async", "files")):
        one, two = session[way], session[kind][0]
        assert without_id(one) == without_id(two)
        np.testing.assert_allclose(one["probabilities"], two["probabilities"], atol=1e-6)
        np.testing.assert_allclose(one["head_probabilities"], two["head_probabilities"], atol=1e-6)


def test_pixels(session: dict[str, Any], images: Direct) -> None:
    [probabilities, again] = session["pixels"]["probabilities"]
    expected = images.predict(np.zeros((30, 40, 3), np.uint8))
    np.testing.assert_allclose(probabilities, expected.probabilities, atol=1e-5)
    assert probabilities == again


def test_classification(session: dict[str, Any], texts: Direct) -> None:
    told = session["classes"]
    assert told["label"] == [EXPECTED[name]["label"] for name in TEXTS]
    for name, ranked in zip(TEXTS, told["probabilities"], strict=True):
        prediction = texts.predict(Path("examples", name).read_text())
        assert [value.split(":", 2)[1:] for value in ranked] == [
            [str(index), texts.labels[index]] for index in prediction.top(3)
        ]


def test_early_exit(session: dict[str, Any], texts: Direct) -> None:
    predictions = [texts.predict(Path("examples", name).read_text(), min_confidence=0.5) for name in TEXTS]
    told = session["early"]
    assert "head_probabilities" not in told
    check(told, TEXTS, predictions, 0)
    assert "early_exit" in told["stopped_by"]


def test_metadata_is_what_was_answered(session: dict[str, Any]) -> None:
    for kind, model in (("files", "fashion-mnist"), ("texts", "newsgroups")):
        metadata = session["metadata"][model]
        assert (metadata["name"], metadata["versions"]) == (model, ["1"])
        told = session[kind][0]
        for output in metadata["outputs"]:
            shape = np.shape(told[output["name"]])
            assert len(shape) == len(output["shape"])
            assert all(size in (-1, real) for size, real in zip(output["shape"], shape, strict=True))


def test_the_configuration_is_one_that_triton_has(session: dict[str, Any]) -> None:
    found = importlib.util.find_spec("tritonclient")
    assert found is not None
    assert found.submodule_search_locations is not None
    path = Path(found.submodule_search_locations[0], "grpc", "model_config_pb2.py")  # its package wants grpcio
    spec = importlib.util.spec_from_file_location("model_config_pb2", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, config in session["config"].items():
        message = json_format.ParseDict(config, module.ModelConfig())
        assert message.name == name
        assert [tensor.name for tensor in message.input] == ["input"]
        assert json_format.MessageToDict(message, preserving_proto_field_name=True)["output"][0] == {
            "name": "label", "data_type": "TYPE_STRING", "dims": ["-1"],
        }  # fmt: skip


def test_errors_are_sentences(session: dict[str, Any]) -> None:
    errors = session["errors"]
    for name in ("index", "load", "unload"):
        assert errors[name]["status"] == "403"
        assert "admin port" in errors[name]["message"]
    assert errors["model"]["status"] == errors["trace"]["status"] == "404"
    for name, words in {"shape": "[rows, 1, 28, 28]", "datatype": "BYTES", "output": "'logits'", "heads": "99"}.items():
        assert errors[name]["status"] == "400"
        assert words in errors[name]["message"]
    assert errors["timeout"]["status"] == "504"


def test_statistics_have_both_models(session: dict[str, Any]) -> None:
    assert [found["name"] for found in session["statistics"]["model_stats"]] == ["fashion-mnist", "newsgroups"]
