"""Runs of the study: what is trained, resumed, measured or left alone; and a tiny study from end to end."""

import json
import signal
import sys
import threading
from pathlib import Path

import pytest

from accuracy import main
from accuracy_grid import Entry, Variant
from accuracy_processes import LOCK, LOG, Locked, Processes, ProcessFailed, _locked, read_times
from accuracy_results import read_result, write_result
from accuracy_run import OtherSettings, Study, Training, for_each, train, train_command
from tests.benchmarks.study_results import result

ENTRY = Entry(stage=1, data="newsgroups", variant=Variant(method="full_ensemble"), seed=1)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    recipes = tmp_path / "recipes"
    recipes.mkdir()
    (recipes / "study-newsgroups.yaml").write_text("epochs: 3\n")
    return Study(tmp_path / "runs", tmp_path / "results", recipes)


def write_state(folder: Path, step: int, *, finished: bool) -> None:
    checkpoint = folder / "checkpoints" / f"step-{step:08d}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "state.json").write_text(json.dumps({"finished": finished}))


def test_training_stands_where_the_run_folder_says(study: Study) -> None:
    run = study.run(ENTRY)
    assert study.training(ENTRY) is Training.MISSING
    run.mkdir(parents=True)  # killed before the first checkpoint: nothing to go on with
    assert study.training(ENTRY) is Training.MISSING
    assert "--resume" not in train_command(study, ENTRY, 1)
    write_state(run / "members" / "0", 10, finished=True)
    assert study.training(ENTRY) is Training.STARTED
    assert train_command(study, ENTRY, 1)[-4:] == ["threads=1", "--run", str(run), "--resume"]
    write_state(run, 10, finished=False)
    assert study.training(ENTRY) is Training.STARTED
    write_state(run, 20, finished=True)
    assert study.training(ENTRY) is Training.DONE


def test_a_result_of_other_settings_does_not_count(study: Study) -> None:
    made = result(ENTRY, 10).model_copy(update={"settings_sha256": study.settings_sha256(ENTRY)})
    write_result(study.result(ENTRY), made)
    assert study.measured(ENTRY) == made
    recipe = study.recipe(ENTRY)
    recipe.write_text("# a comment\nepochs: 3\n")
    assert study.measured(ENTRY) == made
    recipe.write_text("epochs: 4\n")
    assert study.measured(ENTRY) is None


def test_a_run_of_other_settings_is_neither_resumed_nor_measured(study: Study) -> None:
    study.claim(ENTRY)
    study.claim(ENTRY)
    study.recipe(ENTRY).write_text("epochs: 4\n")
    with pytest.raises(OtherSettings, match="full_ensemble-seed1 was trained before its recipe"):
        train(study, ENTRY, Processes(1))


def test_a_failed_process_says_why_and_others_go_on(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    processes = Processes(1)

    def work(entry: Entry) -> str:
        wanted = 3 if entry is ENTRY else 0
        processes.run(study.run(entry), [sys.executable, "-c", f"print('as said'); exit({wanted})"], timed=True)
        return "fine"

    other = ENTRY.model_copy(update={"seed": 2})
    assert for_each([ENTRY, other], work, processes, jobs=2) == 1
    said = capsys.readouterr().err
    assert "[1/2] newsgroups/full_ensemble-seed1: ProcessFailed: status 3" in said
    assert "as said" in said
    assert "[2/2] newsgroups/full_ensemble-seed2: fine" in said
    times = read_times(study.run(other))
    assert (times.processes, times.killed) == (1, 0)


def test_a_run_in_which_another_process_works_is_left_alone(study: Study) -> None:
    run = study.run(ENTRY)
    run.mkdir(parents=True)
    with _locked(run), pytest.raises(Locked, match="another process works in"):
        Processes(1).run(run, [sys.executable, "-c", ""])
    Processes(1).run(run, [sys.executable, "-c", ""])
    assert (run / LOCK).exists()


def test_the_lock_holds_as_long_as_the_process_lives(study: Study) -> None:
    run, processes, failures = study.run(ENTRY), Processes(1), []

    def sleep() -> None:
        code = "import time; print('ready', flush=True); time.sleep(60)"
        with pytest.raises(ProcessFailed) as caught:
            processes.run(run, [sys.executable, "-c", code], timed=True)
        failures.append(str(caught.value))

    thread = threading.Thread(target=sleep)
    thread.start()
    while not ((run / LOG).exists() and "ready" in (run / LOG).read_text()):
        thread.join(0.05)
    with pytest.raises(Locked):
        Processes(1).run(run, [sys.executable, "-c", ""])
    processes.stop()
    thread.join()
    assert f"status {-signal.SIGTERM}" in failures[0]
    assert read_times(run).killed == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--stages", "4"], "--stages 4 is not in the grid"),
        (["--jobs", "0"], "must be at least 1, not 1 and 0"),
        (["--only-train", "--only-evaluate"], "exclude each other"),
    ],
)
def test_wrong_options_are_told_in_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    assert said in capsys.readouterr().err


def test_a_smoke_study_trains_measures_and_then_rests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs, out = tmp_path / "runs", tmp_path / "out"
    choice = ["--data", "newsgroups", "--seeds", "1", "--methods", "full_ensemble", "--runs", str(runs)]
    options = [*choice, "--out", str(out), "--smoke"]
    assert main(options) == 0
    made = read_result(out / f"{ENTRY.name}.json")
    assert made is not None
    assert made.test is not None
    assert made.smoke
    assert (made.report.rows, made.test.rows) == (24, 30)
    assert (made.training.times.processes, made.training.times.killed) == (1, 0)
    assert made.cost.non_zeros == made.cost.weights
    assert (made.cost.inference_macs_to_dense, made.cost.training_macs_to_dense) == (3, 3)
    assert made.environment.command.endswith("--seeds 1 --methods full_ensemble --smoke")
    assert "SMOKE RUN" in capsys.readouterr().out
    assert (out / "accuracy-nonzeros.png").exists()
    run = runs / ENTRY.name
    log = (run / LOG).read_bytes()
    assert main(options) == 0
    assert (run / LOG).read_bytes() == log
    assert str(tmp_path) not in (out / f"{ENTRY.name}.json").read_text()
    capsys.readouterr()
    assert main([*options, "--list"]) == 0
    assert "1 of 1 runs are done" in capsys.readouterr().out
