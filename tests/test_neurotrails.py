"""The command line as a user meets it, and what may be imported from where."""

import signal
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest

from neurotrails import VERBS, main

ROOT = Path(__file__).resolve().parent.parent


def _run(*arguments: str, without: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, as if the packages `without` were not installed."""
    script = f"""
import sys
for name in {without!r}:
    sys.modules[name] = None
from neurotrails import main
sys.exit(main({list(arguments)!r}))
"""
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    usage = capsys.readouterr().out
    for verb, (_, _, summary) in VERBS.items():
        assert f"  {verb:10} {summary}" in usage
    assert main([]) == 2
    assert capsys.readouterr().out == usage


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"neurotrails {version('neurotrails')}\n"


def test_an_unknown_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fly"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("There is no verb 'fly'.\n\nusage: neurotrails VERB")
    assert captured.out == ""


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    assert f"neurotrails {verb}" in capsys.readouterr().out


@pytest.mark.parametrize("verb", VERBS)
def test_an_unknown_option_is_wrong_usage(verb: str) -> None:
    if verb in ("predict", "ask"):
        pytest.skip("takes any word for an input; tests/runtime/test_predict.py shows what it says")
    assert main([verb, "--no-such-option"]) == 2


@pytest.mark.parametrize("verb", ["verify", "inspect", "predict"])
def test_a_missing_argument_is_wrong_usage(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb]) == 2
    assert "ARTIFACT" in capsys.readouterr().err.upper()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["verify", "nowhere"], "nowhere is not an artifact"),
        (["inspect", "nowhere"], "nowhere is not an artifact"),
        (["predict", "nowhere", "x.png"], "nowhere is not an artifact"),
        (["ask", "nowhere.png"], "'nowhere.png' cannot be read"),
        (["serve", "--models", "nowhere"], "The models folder 'nowhere' does not exist"),
        (["train", "nowhere.yaml", "--run", "runs/x"], "nowhere.yaml"),
        (["evaluate", "nowhere"], "nowhere"),
        (["export", "nowhere", "out"], "nowhere"),
        (["export", "nowhere", "--fused", "out.onnx"], "nowhere is not an artifact"),
    ],
)
def test_errors_end_with_one_sentence(arguments: list[str], problem: str) -> None:
    done = _run(*arguments)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"neurotrails {arguments[0]}: ")
    assert problem in last
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["inspect", "models/newsgroups"], ["doctor"]])  # much output, and little
def test_a_reader_that_has_seen_enough(arguments: list[str]) -> None:
    command = [sys.executable, "neurotrails.py", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 128 + signal.SIGPIPE


@pytest.mark.parametrize(
    ("verb", "package", "extra"),
    [("train", "torch", "train"), ("serve", "fastapi", "serve")],
)
def test_a_missing_extra(verb: str, package: str, extra: str) -> None:
    done = _run(verb, "--help", without=(package,))
    assert done.returncode == 1
    assert done.stderr == f"{verb} needs {package}: pip install 'neurotrails[{extra}]'\n"


def test_a_checkpoint_needs_pytorch_and_an_artifact_does_not(tmp_path: Path) -> None:
    done = _run("export", "nowhere", str(tmp_path / "artifact"), without=("torch",))
    assert done.returncode == 1
    assert done.stderr.startswith("neurotrails export: Exporting a checkpoint needs torch: pip install 'neurotrails[tr")
    done = _run("export", "models/newsgroups", "--fused", str(tmp_path / "fused.onnx"), without=("torch",))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "fused.onnx").stat().st_size > 1_000_000


def test_only_the_chosen_verb_is_imported() -> None:
    script = "import sys, neurotrails; neurotrails.main(['doctor', '--help']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "runtime.doctor" in loaded
    assert not loaded & {"torch", "fastapi", "training", "export", "server"}


def test_runtime_and_server_need_no_torch() -> None:
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for package in ("runtime", "server")
        for path in sorted((ROOT / package).rglob("*.py"))
        if path.stem != "deepsparse" or find_spec("deepsparse")
    ]
    assert "runtime.predictor" in modules
    assert "server.app" in modules
    script = f"""
import importlib, sys
sys.modules["torch"] = None
for name in {modules!r}:
    importlib.import_module(name)
print(*sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.splitlines()[-1].split())
    assert not loaded & {"training", "export", "benchmarks"}
