"""Genuine tunings of tiny artifacts with a tiny budget: which engine wins is the machine's business, not the test's."""

import os
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from pathlib import Path
from threading import Barrier

import pytest

from neurotrails import main
from runtime.artifact import Artifact
from runtime.engines import engine_class, load_engine
from runtime.engines.base import EngineOptions
from runtime.errors import EngineError, EngineNotInstalled, UnsupportedModel
from runtime.tuning.contender import Contender
from runtime.tuning.progress import Progress
from runtime.tuning.records import Setup, Trial, Tuning
from runtime.tuning.store import find_tuning, tuning_path, write_tuning
from runtime.tuning.tune import seconds_of
from runtime.verify import read_reference
from runtime.workers.engine import load_workers
from runtime.workers.slices import allowed_cpus
from tests.engines import ENGINE_NAMES
from tests.runtime.tuning.conftest import setup, speed, tuning_of

QUICK = ("--budget", "100ms", "--cores", "1", "--batch-size", "1", "--batch-size", "4")


@pytest.fixture(scope="module")
def tuned(image_artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tuning]:
    """A cache folder with a genuine tuning in it."""
    folder = tmp_path_factory.mktemp("tuned")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEUROTRAILS_CACHE", str(folder))
        chosen = ("--engine", "onnxruntime", "--engine", "native", "--target-p99", "2m")
        assert main(["tune", str(image_artifact.folder), *QUICK, *chosen]) == 0
        found = find_tuning(image_artifact, 1)
    assert found is not None
    return folder, found


def test_everything_is_measured(image_artifact: Artifact, tuned: tuple[Path, Tuning]) -> None:
    _, tuning = tuned
    assert [trial.setup for trial in tuning.trials] == [setup("onnxruntime"), setup("native")]
    for trial in tuning.trials:
        assert trial.failure is None
        assert trial.version is not None
        assert trial.version.startswith(engine_class(trial.setup.engine).version)
        assert trial.agreement == 1
        assert [one.rows for one in trial.speeds] == [1, 4]
        assert all(0 < one.p50_seconds <= one.p99_seconds and one.calls >= one.rounds >= 3 for one in trial.speeds)
    assert tuning.best is not None
    heads = len(image_artifact.manifest.heads)
    [costs] = tuning.costs
    assert costs.batch_sizes == (1, 4)
    assert costs.seconds(9, heads) > costs.seconds(1, 1) > 0
    unchosen = {trial.setup for trial in tuning.trials} - {tuning.chosen.setup, tuning.fastest.setup}
    assert not any(tuning.trial(one).costs for one in unchosen)


def test_auto_is_what_was_tuned(
    image_artifact: Artifact, tuned: tuple[Path, Tuning], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, tuning = tuned
    monkeypatch.setenv("NEUROTRAILS_CACHE", str(folder))
    engine = load_engine(image_artifact, "auto", EngineOptions(cores=1, batch_sizes=(1,)))
    assert engine.name == tuning.chosen.setup.engine
    assert f"chosen for tiny-image by tune: {tuning.chosen.setup}" in engine.notes
    engine.close()
    other = load_engine(image_artifact, "auto", EngineOptions(cores=2, batch_sizes=(1,)))
    assert not any("tune" in note for note in other.notes), "it was measured with another core budget"
    other.close()


def test_the_table_says_what_happened(text_artifact: Artifact, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--engine", "onnxruntime", "--precision", "fp32", "--precision", "fp64", "--target-p99", "0.001ms")
    assert main(["tune", str(text_artifact.folder), *QUICK, *options]) == 0
    captured = capsys.readouterr()
    tuning = find_tuning(text_artifact, 1)
    assert tuning is not None
    assert tuning.best is None
    assert tuning.tokens > 0
    lines = captured.out.splitlines()
    assert lines[0].endswith(f"times of a call of {tuning.tokens} tokens")
    assert any(line.startswith("onnxruntime  fp32") and line.endswith("fastest") for line in lines)
    assert any(line.startswith("left out  onnxruntime fp64: of artifacts stored as fp32 it executes") for line in lines)
    assert any(line.startswith("chosen    the fastest: NOTHING meets p99 <= 0.001 ms") for line in lines)
    assert str(cache) in captured.out
    assert "measuring" in captured.err
    lengths = [costs.tokens for costs in tuning.costs]
    assert lengths == list(engine_lengths(text_artifact))


def engine_lengths(artifact: Artifact) -> tuple[int, ...]:
    engine = load_engine(artifact, "onnxruntime", EngineOptions(cores=1, batch_sizes=(1,)))
    return engine.lengths


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Native cannot be loaded, and processes that try know why."""

    def load(self: Contender, lengths: tuple[int, ...] | None) -> object:
        if self.setup.engine == "native":
            raise EngineError("the compiler gave up")
        return genuine(self, lengths)

    genuine = Contender.load
    monkeypatch.setattr(Contender, "load", load)


@pytest.mark.usefixtures("broken", "cache")
def test_a_candidate_that_fails_is_reported(image_artifact: Artifact, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--engine", "native", "--engine", "onnxruntime")
    assert main(["tune", str(image_artifact.folder), *QUICK, *options]) == 0
    out = capsys.readouterr().out
    assert "failed    native fp32, 1 core: the compiler gave up" in out
    assert "chosen    the fastest, as no target was given" in out
    tuning = find_tuning(image_artifact, 1)
    assert tuning is not None
    assert tuning.trial(setup("native")).failure == "the compiler gave up"
    assert tuning.chosen.setup == setup("onnxruntime")


@pytest.mark.usefixtures("broken")
def test_when_nothing_runs_nothing_is_written(
    image_artifact: Artifact, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", str(image_artifact.folder), *QUICK, "--engine", "native"]) == 1
    assert "No engine could run it. native fp32, 1 core: the compiler gave up." in capsys.readouterr().err
    assert not list(cache.iterdir())


@pytest.mark.usefixtures("cache")
def test_json(image_artifact: Artifact, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", str(image_artifact.folder), *QUICK, "--engine", "onnxruntime", "--json"]) == 0
    assert Tuning.model_validate_json(capsys.readouterr().out) == find_tuning(image_artifact, 1)


def test_a_process_that_dies_is_reported(image_artifact: Artifact) -> None:
    contender = Contender(setup(), image_artifact.folder, (1,))
    contender.load(None)
    os.kill(contender._process.pid or 0, 9)
    with pytest.raises(EngineError, match=r"its process ended during 'visit' \(exit -9\)"):
        contender.visit(1)
    contender.kill()


def test_a_process_answers_or_says_why_not(image_artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    contender = Contender(setup(), image_artifact.folder, (1,))
    with pytest.raises(EngineError, match="nothing is loaded yet"):
        contender.visit(1)
    with pytest.raises(EngineError, match="AttributeError"):
        contender._ask(60, "dance")
    monkeypatch.setattr("runtime.tuning.contender.LOAD_TIMEOUT_SECONDS", 0)
    with pytest.raises(EngineError, match="no answer to 'load' within 0 s"):
        contender.load(None)
    contender.kill()


@pytest.mark.parametrize(("text", "seconds"), [("20ms", 0.02), ("1.5s", 1.5), ("2m", 120), (".5 s", 0.5), ("1min", 60)])
def test_times(text: str, seconds: float) -> None:
    assert seconds_of("--budget", text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "20", "ms", "-1s", "0ms", "1h", "1e3s", "infs"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(EngineError, match="--budget must be a time such as 20ms"):
        seconds_of("--budget", text)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--batch-size", "0"), "--batch-size must be at least 1, not 0"),
        (("--cores", "0"), "cores must be at least 1, not 0"),
        (("--target-p99", "fast"), "--target-p99 must be a time such as 20ms, 1.5s or 2m, not 'fast'"),
        (("--engine", "abacus"), "no engine 'abacus'"),
    ],
)
def test_impossible_options(
    image_artifact: Artifact, capsys: pytest.CaptureFixture[str], options: tuple[str, str], problem: str
) -> None:
    assert main(["tune", str(image_artifact.folder), *options]) == 1
    assert problem in capsys.readouterr().err


def put(artifact: Artifact, chosen: Setup, budget: int = 2) -> None:
    """Put a made-up tuning into the cache, for a budget of so many cores."""
    trial = Trial(setup=chosen, version="0.0", speeds=(speed(),))
    write_tuning(tuning_path(artifact, budget), tuning_of(artifact, trial, cores=budget), "")


@pytest.mark.usefixtures("cache")
def test_auto_takes_over_all_that_was_tuned(image_artifact: Artifact) -> None:
    put(image_artifact, setup("onnxruntime", cores=1, streams=2))
    engine = load_engine(image_artifact, "auto", EngineOptions(cores=2, batch_sizes=(1,)))
    assert (engine.name, engine.options.cores, engine.concurrency) == ("onnxruntime", 1, 2)
    assert engine.batch_sizes == (1,), "these are the caller's"
    assert f"tune measured version 0.0 for tiny-image, now it is {engine.version}: tune again" in engine.notes


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    ("engine", "options", "reason"),
    [
        ("deepsparse", {}, "the licence of DeepSparse is not accepted"),
        ("abacus", {}, "this software has no such engine"),
        ("onnxruntime", {"precision": "fp64"}, "fp32 is asked for"),
    ],
)
def test_where_the_tuned_engine_cannot_be_had_the_rule_decides(
    image_artifact: Artifact, engine: str, options: dict[str, str], reason: str
) -> None:
    untuned = load_engine(image_artifact, "auto", EngineOptions(cores=1, batch_sizes=(1,)))
    put(image_artifact, setup(engine, **options))
    loaded = load_engine(image_artifact, "auto", EngineOptions(cores=2, batch_sizes=(1,), precision="fp32"))
    assert loaded.name == untuned.name
    [note] = [note for note in loaded.notes if "as tuned" in note]
    assert note.startswith(f"not as tuned for tiny-image ({setup(engine, **options)}): ")
    assert reason in note
    loaded.close()
    untuned.close()


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("error", [EngineNotInstalled("pip install it"), UnsupportedModel("it has no Softsign")])
def test_a_tuned_engine_that_has_gone_is_reported(
    image_artifact: Artifact, monkeypatch: pytest.MonkeyPatch, error: EngineError
) -> None:
    def gone(name: str) -> object:
        if name == "onnxruntime":
            raise error
        return engine_class(name)

    put(image_artifact, setup("onnxruntime"))
    monkeypatch.setattr("runtime.engines.engine_class", gone)
    engine = load_engine(image_artifact, "auto", EngineOptions(cores=2, batch_sizes=(1,)))
    assert engine.name == "native"
    assert f"not as tuned for tiny-image (onnxruntime fp32, 1 core): {error}" in engine.notes
    engine.close()


class Terminal(StringIO):
    """What a terminal is to a program."""

    def isatty(self) -> bool:
        return True


def test_progress_moves_on_a_terminal_and_is_short_in_a_log() -> None:
    terminal, log = Terminal(), StringIO()
    for stream in (terminal, log):
        progress = Progress(stream)
        for done in (0.0, 0.5, 2.0):
            progress.show("measuring", done, "3 of 4 running" if done < 1 else "")
        progress.show("pricing", 0.0)
        progress.clear()
    assert log.getvalue() == "measuring\npricing\n"
    shown = terminal.getvalue().split("\r")
    assert shown[1] == f"measuring [{'.' * 24}]   0% 3 of 4 running"
    assert shown[2] == f"measuring [{'#' * 12}{'.' * 12}]  50% 3 of 4 running"
    assert shown[3].rstrip() == f"measuring [{'#' * 24}] 100%"
    assert len(shown[3]) == len(shown[2]), "what was longer must be overwritten"
    assert shown[-2].strip() == ""
    assert len(shown[-2]) >= len(shown[-3].rstrip())


needs_bf16 = pytest.mark.skipif(
    "openvino" not in ENGINE_NAMES or "bf16" not in engine_class("openvino").precisions["fp32"],
    reason="no engine computes in bf16 here",
)


@needs_bf16
@pytest.mark.usefixtures("cache")
@pytest.mark.skipif(len(allowed_cpus()) < 2, reason="each worker needs a core of its own")
def test_all_workers_compute_in_the_precision_that_was_tuned(image_artifact: Artifact) -> None:
    put(image_artifact, setup("openvino", precision="bf16"), budget=1)
    inputs, expected = read_reference(image_artifact)
    engine = load_workers(image_artifact, "auto", EngineOptions(cores=2, batch_sizes=(32,)), workers=2)
    assert engine.precision == "bf16"
    together = Barrier(2)

    def logits(_: int) -> bytes:
        together.wait(60)
        return engine.logits(inputs, 1)[0].tobytes()

    with ThreadPoolExecutor(2) as pool:
        answers = set(pool.map(logits, range(20)))
    engine.close()
    assert len(answers) == 1, "the workers compute in different precisions"
    assert answers != {expected[0].tobytes()}


@needs_bf16
@pytest.mark.usefixtures("cache")
def test_bf16_is_chosen_only_where_it_was_asked_for(image_artifact: Artifact) -> None:
    options = ("--engine", "openvino", "--precision", "bf16")
    assert main(["tune", str(image_artifact.folder), *QUICK, *options]) == 0
    tuning = find_tuning(image_artifact, 1)
    assert tuning is not None
    [trial] = tuning.trials
    assert trial.setup.precision == "bf16"
    assert trial.agreement is not None
    engine = load_engine(image_artifact, "auto", EngineOptions(cores=1, batch_sizes=(1,)))
    assert (engine.name, engine.precision) == ("openvino", "bf16")
    engine.close()
    exact = load_engine(image_artifact, "auto", EngineOptions(cores=1, batch_sizes=(1,), precision="fp32"))
    assert exact.precision == "fp32"
    assert any("fp32 is asked for" in note for note in exact.notes)
    exact.close()
