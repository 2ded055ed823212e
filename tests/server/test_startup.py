"""Starting and stopping: settings, broken models, the command's entry point as a process of its own."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from runtime.engines import native_obstacle
from server.app import serve
from server.errors import StartupError
from server.settings import Settings
from tests.artifacts import write_tiny_image_artifact
from tests.engines import needs_deepsparse
from tests.server.inputs import image_file, text
from tests.server.service import CORES, Direct, Service


@pytest.fixture(autouse=True)
def _no_settings_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("NEUROTRAILS_")]:
        monkeypatch.delenv(name)


@contextmanager
def process(models: Path, **settings: object) -> Iterator[tuple[subprocess.Popen[str], list[str], str]]:
    """Run `serve` in a process of its own: the process, its log until it was ready, and its URL."""
    arguments = ", ".join(f"{name}={value!r}" for name, value in settings.items())
    code = f"from pathlib import Path; from server.app import serve; serve(models=Path({str(models)!r}), {arguments})"
    running = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    try:
        assert running.stderr is not None
        log: list[str] = []
        while not (log and "All models are ready" in log[-1]):
            line = running.stderr.readline()
            assert line, "the service ended:\n" + "".join(log)
            log.append(line)
        [url] = re.findall(r"running on (http://[0-9.:]+)", "".join(log))
        yield running, log, url
    finally:
        running.kill()
        running.communicate()


def curl(*arguments: str) -> dict[str, Any]:
    done = subprocess.run(["curl", "-sS", *arguments], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_settings_come_from_arguments_then_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings().port == 8000
    monkeypatch.setenv("NEUROTRAILS_PORT", "9000")
    monkeypatch.setenv("NEUROTRAILS_BATCH_SIZES", "[1, 2]")
    monkeypatch.setenv("NEUROTRAILS_ACCEPT_DEEPSPARSE_LICENCE", "true")
    assert (Settings().port, Settings().batch_sizes, Settings().accept_deepsparse_licence) == (9000, (1, 2), True)
    assert Settings(port=1).port == 1
    assert Settings().host == "127.0.0.1"
    undocumented = [name for name, field in Settings.model_fields.items() if not field.description]
    assert undocumented == []


@pytest.mark.parametrize("wrong", [{"port": 70_000}, {"cores": 0}, {"max_pixels": 0}, {"batch_sizes": ()}])
def test_settings_are_checked(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Settings(**wrong)  # type: ignore[arg-type]


def test_wrong_settings_stop_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEUROTRAILS_MAX_INPUTS", "many")
    with pytest.raises(StartupError, match=r"max_inputs \(NEUROTRAILS_MAX_INPUTS\): .*'many'"):
        serve()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_waiting_rows": 10, "max_inputs": 11}, ["max_waiting_rows (10)", "max_inputs (11)"]),
        ({"timeout_seconds": 9, "max_timeout_seconds": 8}, ["timeout_seconds (9)", "max_timeout_seconds (8)"]),
        ({"max_bodies_bytes": 9, "max_body_bytes": 10}, ["max_bodies_bytes (9)", "max_body_bytes (10)"]),
        ({"min_heads": 0}, ["min_heads"]),
        ({"latency_target_seconds": 0}, ["latency_target_seconds"]),
        ({"latency_target_seconds": float("inf")}, ["latency_target_seconds"]),
    ],
)
def test_settings_that_do_not_go_together(settings: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValidationError) as refused:
        Settings(**settings)
    for word in words:
        assert word in str(refused.value)


def broken_folder(tmp_path: Path, kind: str) -> str:
    """Make a models folder that cannot be served; return what the error must name."""
    if kind == "missing":
        return "nowhere"
    if kind == "empty":
        return "holds no artifact"
    write_tiny_image_artifact(tmp_path / "good")
    if kind == "twice":
        write_tiny_image_artifact(tmp_path / "again")
        return "again.*good|good.*again"
    if kind == "no manifest":
        (tmp_path / "bad").mkdir()
        (tmp_path / "bad" / "manifest.json").write_text("{")
        return "bad"
    write_tiny_image_artifact(tmp_path / "bad", name="bad")
    weights = tmp_path / "bad" / "head_1.onnx"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    return "bad/head_1.onnx"


@pytest.mark.parametrize("kind", ["missing", "empty", "twice", "no manifest", "altered"])
def test_a_broken_model_is_named_and_nothing_is_served(tmp_path: Path, kind: str) -> None:
    named = broken_folder(tmp_path, kind)
    with Service(tmp_path / "nowhere" if kind == "missing" else tmp_path) as service:
        service.wait()
        [failure] = service.failures
        assert re.search(named, str(failure))
        reply = service.client.get("/readyz")
        assert (reply.status_code, reply.json()["code"]) == (503, "not_ready")
        assert re.search(named, reply.json()["error"])
        assert service.client.post("/predict", content=b"ball").status_code == 503


def test_a_model_that_an_engine_cannot_load_is_named(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("the compiler gave up")

    monkeypatch.setattr("server.models.load_engine", refuse)
    with Service(models) as service:
        [failure] = service.wait().failures
        assert "tiny-image" in str(failure)
        assert "the compiler gave up" in str(failure)


def test_the_command_fails_with_the_reason(tmp_path: Path) -> None:
    code = f"from pathlib import Path; from server.app import serve; serve(models=Path({str(tmp_path)!r}), port=0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.rstrip().splitlines()[-1].startswith("server.errors.StartupError: The models folder")


def test_a_process_answers_curl_and_stops_cleanly(
    models: Path, tmp_path: Path, engine_name: str, images: Direct, texts: Direct
) -> None:
    picture, message = tmp_path / "a.png", tmp_path / "a.txt"
    picture.write_bytes(image_file(1))
    message.write_text(text(1))
    body = json.dumps({"inputs": [{"text": text(1)}]})
    image: tuple[Direct, bytes | str] = (images, image_file(1))
    words: tuple[Direct, bytes | str] = (texts, text(1))
    with process(models, engine=engine_name, cores=CORES, port=0) as (running, log, url):
        for arguments, (direct, value) in [
            (["-F", f"file=@{picture}"], image),
            (["-T", str(picture)], image),
            (["--data-binary", f"@{picture}"], image),
            (["-F", f"file=@{message}"], words),
            (["-d", f"@{message}"], words),
            (["-d", body], words),
            (["-H", "content-type: application/json", "-d", body], words),
        ]:
            [prediction] = curl(*arguments, f"{url}/predict")["predictions"]
            direct.check(prediction, value)
        many = curl("-F", f"file=@{picture}", "-F", f"file=@{picture}", f"{url}/predict?heads=1")
        assert len(many["predictions"]) == 2
        large = tmp_path / "large"
        large.write_bytes(bytes(40_000_000))
        assert curl("--data-binary", f"@{large}", f"{url}/predict")["code"] == "body_too_large"
        assert curl("-d", "ball", f"{url}/predict")["model"] == "tiny-text"
        running.send_signal(signal.SIGTERM)
        assert running.wait() == 0
    serving = [line for line in log if "Serving" in line]
    assert len(serving) == 2
    assert re.search(
        rf"Serving tiny-image version 1 .* with {engine_name} [0-9.]+( avx512| avx2)? on 2 core", serving[0]
    )
    assert any("not for production use" in line for line in log) == (engine_name == "deepsparse")


@needs_deepsparse
def test_the_licence_note_of_deepsparse_is_shown(models: Path) -> None:
    with process(models, engine="deepsparse", cores=1, port=0) as (_, log, url):
        assert curl("-d", "ball", f"{url}/predict")["engine"] == "deepsparse"
    [note] = [line for line in log if "evaluation" in line]
    assert "WARNING neurotrails: deepsparse: " in note
    assert "not for production use" in note


def test_auto_says_why_it_is_not_native(
    models: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("runtime.engines.cpu", lambda: ("Neoverse", []))
    with Service(models, engine="auto") as service:
        found = service.wait().client.get("/models").json()["models"]
    for model in found:
        assert model["engine"] == "onnxruntime"
        reason = f"chosen instead of native for {model['name']}: its fast code needs the CPU features avx2 and fma"
        assert any(note.startswith(reason) for note in model["notes"])
        assert f"onnxruntime: {reason}" in caplog.text


@pytest.mark.skipif(native_obstacle() is not None, reason=str(native_obstacle()))
def test_auto_is_native_even_where_deepsparse_is_allowed(models: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Service(models, engine="auto", accept_deepsparse_licence=True) as service:
        found = service.wait().client.get("/models").json()["models"]
    assert [model["engine"] for model in found] == ["native", "native"]
    assert "production" not in caplog.text


@pytest.mark.parametrize("module", ["server.app", "runtime.predictor"])
def test_neither_torch_nor_training_is_imported(module: str) -> None:
    code = f"import sys, {module}; print([name for name in ('torch', 'training', 'export') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
