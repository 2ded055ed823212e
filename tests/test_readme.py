"""The README says what was measured, and its commands are those that exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from neurotrails import VERBS

README = Path("README.md").read_text()


@pytest.mark.parametrize("tables", ["readme", "native", "accuracy", "crossover"])
def test_tables_are_made_from_the_measured_files(tables: str) -> None:
    command = [sys.executable, f"benchmarks/{tables}_tables.py", "--check"]
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0


def test_every_verb_and_target_that_is_named_exists() -> None:
    makefile = Path("Makefile").read_text()
    for target in re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for verb in re.findall(r"(?:^|`)neurotrails ([a-z]+)\b", README, re.MULTILINE):
        assert verb in VERBS, verb


def test_every_file_that_is_named_exists() -> None:
    for path in re.findall(r"(?:examples|recipes|benchmarks|docs)/[\w./-]*\w", README):
        assert Path(path).exists(), path


def test_the_test_command_is_what_ci_runs() -> None:
    assert "make test " in README
    lines = [line for line in Path(".ci/run").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[-1] == "make test"
