"""The process that holds an engine: it answers, refuses clearly, and its end is noticed."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from engine_process import LONG_CALL_SECONDS, MAX_CALLS, EngineProcess, VisitPlan, plan_visit, synthetic_batch
from environment import REPOSITORY
from runtime.artifact import Artifact
from runtime.errors import EngineError
from tests.artifacts import LENGTHS, SIDE, write_tiny_image_artifact, write_tiny_text_artifact


@pytest.fixture
def process() -> Iterator[EngineProcess]:
    with EngineProcess("onnxruntime", cores=1) as opened:
        yield opened


def test_visits_return_a_positive_time_for_each_planned_call(process: EngineProcess, tmp_path: Path) -> None:
    write_tiny_image_artifact(tmp_path / "image")
    write_tiny_text_artifact(tmp_path / "text")
    loaded = process.load("image", tmp_path / "image", batch_sizes=(1, 3), tokens=None)
    assert loaded.info.name == "onnxruntime"
    assert loaded.info.cores == 1
    assert loaded.info.batch_sizes == (1, 3)
    process.load("text", tmp_path / "text", batch_sizes=(2,), tokens=LENGTHS[-1])
    for key, batch, heads in (("image", 3, 2), ("image", 1, 3), ("text", 2, 1)):
        plan = process.prime(key, batch=batch, heads=heads)
        seconds = process.measure(key, batch=batch, heads=heads)
        assert len(seconds) == plan.calls
        assert min(seconds) > 0


def test_what_goes_wrong_in_the_process_is_an_error_here_and_it_lives_on(
    process: EngineProcess, tmp_path: Path
) -> None:
    with pytest.raises(EngineError, match=r"onnxruntime: .*is not an artifact"):
        process.load("nothing", tmp_path, batch_sizes=(1,), tokens=None)
    write_tiny_image_artifact(tmp_path / "image", heads=2)
    process.load("image", tmp_path / "image", batch_sizes=(1,), tokens=None)
    with pytest.raises(EngineError, match="heads must be from 1 to 2 for this model, not 3"):
        process.prime("image", batch=1, heads=3)
    assert process.prime("image", batch=1, heads=2).calls >= 1


def test_a_killed_process_is_named(process: EngineProcess, tmp_path: Path) -> None:
    process.kill()
    with pytest.raises(EngineError, match=r"process of onnxruntime ended during load"):
        process.load("image", tmp_path, batch_sizes=(1,), tokens=None)


def test_plan_of_a_visit() -> None:
    assert plan_visit(LONG_CALL_SECONDS) == VisitPlan(warmups=0, calls=1)
    assert plan_visit(0.2) == VisitPlan(warmups=1, calls=1)
    assert plan_visit(0.01) == VisitPlan(warmups=1, calls=5)
    assert plan_visit(1e-6) == VisitPlan(warmups=1, calls=MAX_CALLS)


def test_batches_hold_reference_images(tmp_path: Path) -> None:
    write_tiny_image_artifact(tmp_path / "image")
    artifact = Artifact.open(tmp_path / "image")
    [(name, images)] = synthetic_batch(artifact, 40, None).items()
    assert (name, images.shape, images.dtype.name) == ("image", (40, 1, SIDE, SIDE), "float32")
    reference = artifact.reference()["input.image"]
    assert np.array_equal(images, np.concatenate([reference, reference[:8]]))


def test_batches_hold_texts_without_padding(tmp_path: Path) -> None:
    write_tiny_text_artifact(tmp_path / "text")
    artifact = Artifact.open(tmp_path / "text")
    batch = synthetic_batch(artifact, 5, 32)
    assert {name: tensor.shape for name, tensor in batch.items()} == {"input_ids": (5, 32), "attention_mask": (5, 32)}
    assert batch["attention_mask"].all()
    known = artifact.reference()["input.input_ids"]
    assert set(np.unique(batch["input_ids"])) <= set(np.unique(known)) - {0}


@pytest.mark.parametrize("name", ["cpu_latency.py", "native.py"])
def test_engine_processes_do_not_load_pytorch(name: str) -> None:
    """They import the main script again, so it must stay light."""
    script = REPOSITORY / "benchmarks" / name
    code = (
        "import sys, json, runpy; runpy.run_path(sys.argv[1], run_name='__mp_main__'); "
        "print(json.dumps([name for name in ('torch', 'matplotlib') if name in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, script], capture_output=True, text=True, check=True,
        env={"PYTHONPATH": str(script.parent), "PATH": ""},
    )  # fmt: skip
    assert json.loads(done.stdout) == []
