"""Where settings come from, what is said of wrong ones, and what `--print-config` prints."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from neurotrails import main
from server.config import load_settings
from server.errors import StartupError
from server.settings import Settings


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "server.yaml"
    path.write_text("port: 7001\nmax_inputs: 3\nmax_pixels: 99\n", encoding="utf-8")
    return path


def test_flags_win_over_environment_over_file_over_defaults(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEUROTRAILS_MAX_INPUTS", "4")
    monkeypatch.setenv("NEUROTRAILS_PORT", "7002")
    found = load_settings({"port": 7003}, file)
    settings = found.settings
    assert (settings.port, settings.max_inputs, settings.max_pixels, settings.streams) == (7003, 4, 99, 1)
    sources = [found.sources[name] for name in ("port", "max_inputs", "max_pixels", "streams")]
    assert sources == ["--port", "NEUROTRAILS_MAX_INPUTS", str(file), "default"]


def test_the_environment_can_name_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEUROTRAILS_CONFIG", str(file))
    assert load_settings({}).settings.port == 7001


@pytest.mark.parametrize("value", ["1,2", "[1, 2]", " 1, 2 "])
def test_lists_in_the_environment(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEUROTRAILS_BATCH_SIZES", value)
    assert load_settings({}).settings.batch_sizes == (1, 2)


def test_an_unknown_name_is_an_error_that_names_the_nearest(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("max_input: 3\n", encoding="utf-8")
    with pytest.raises(StartupError, match=r"'max_input'; the nearest is max_inputs\."):
        load_settings({}, file)
    with pytest.raises(StartupError, match=r"'prot'; the nearest is port\."):
        load_settings({"prot": 1})
    monkeypatch.setenv("NEUROTRAILS_CACHE", "elsewhere")  # a name of ours that is not the server's
    load_settings({})
    monkeypatch.setenv("NEUROTRAILS_PROT", "1")
    with pytest.raises(StartupError, match=r"'NEUROTRAILS_PROT'; the nearest is NEUROTRAILS_PORT\."):
        load_settings({})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("port: many\n", r"port \(.*server\.yaml\): .*'many'"),
        ("- port\n", "must hold settings"),
        ("port: 1\nhost: [\n", r"cannot be read: they are no YAML in line 3"),
        ("port: 1\nhost: x\nport: 2\n", r"'port' stands 2 times"),
        ("? [a, b]\n: 1\n", "cannot be read"),
        ("max_waiting_rows: 2\nmax_inputs: 3\n", r"max_waiting_rows \(2\) must be at least max_inputs \(3\)"),
        ("batch_sizes: '[1,'\n", "batch_sizes"),
    ],
)
def test_wrong_files(file: Path, content: str, words: str) -> None:
    file.write_text(content, encoding="utf-8")
    with pytest.raises(StartupError, match=words):
        load_settings({}, file)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"nowhere\.yaml.* cannot be read"):
        load_settings({}, tmp_path / "nowhere.yaml")


def test_what_is_printed_can_be_given_back(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NEUROTRAILS_HOST", "0.0.0.0")
    arguments = [
        "--config",
        str(file),
        "--batch-sizes",
        "1",
        "2",
        "--accept-deepsparse-licence",
        "--models",
        "elsewhere",
    ]
    assert main(["serve", *arguments, "--print-config"]) == 0
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert "host: 0.0.0.0  # NEUROTRAILS_HOST" in lines
    assert f"port: 7001  # {file}" in lines
    assert "batch_sizes: [1, 2]  # --batch-sizes" in lines
    assert "models: [elsewhere]  # --models" in lines
    assert "cores: null  # default" in lines
    assert set(yaml.safe_load(printed)) == set(Settings.model_fields)
    expected = load_settings(
        {"batch_sizes": (1, 2), "accept_deepsparse_licence": True, "models": Path("elsewhere")}, file
    ).settings
    file.write_text(printed, encoding="utf-8")
    monkeypatch.delenv("NEUROTRAILS_HOST")
    assert load_settings({}, file).settings.model_dump() == expected.model_dump()


def test_every_setting_has_a_flag_with_its_description(capsys: pytest.CaptureFixture[str]) -> None:
    main(["serve", "--help"])
    shown = capsys.readouterr().out
    for name in Settings.model_fields:
        assert f"--{name.replace('_', '-')}" in shown
    assert "Address to listen on. Default: 127.0.0.1." in " ".join(shown.replace("│", " ").split())


def test_printing_imports_no_engine_and_loads_no_model(tmp_path: Path) -> None:
    code = "import sys, neurotrails; neurotrails.main(sys.argv[1:]); print('onnxruntime' in sys.modules)"
    arguments = ["serve", "--models", str(tmp_path / "nowhere"), "--print-config"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
