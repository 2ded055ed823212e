"""Hostile artifacts never crash, never hang, read nothing outside their folder, and always give a named error.

Each is made by a seed (tests/runtime/mutations.py) and opened, checked and run in a process of its own
(tests/runtime/fuzz_worker.py). A finding names its seed.
"""

import json
import select
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import pytest

from runtime.artifact import Artifact
from tests.engines import ENGINE_NAMES
from tests.runtime.mutations import Content, mutate

TIMEOUT_SECONDS = 120
"""Far above what any artifact takes, so that a busy machine is no finding."""


class Worker:
    """The process, started anew after each crash."""

    def __init__(self, scratch: Path, engines: list[str]) -> None:
        self.scratch = scratch
        self.command = [sys.executable, "-m", "tests.runtime.fuzz_worker", str(scratch), *engines]
        self.process: subprocess.Popen[str] | None = None

    def run(self, folder: Path) -> dict[str, object]:
        """What became of one artifact; `outcome` is also `crash` or `hang`."""
        if self.process is None:
            with (self.scratch / "stderr.txt").open("w") as log:
                self.process = subprocess.Popen(
                    self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
                )
        stdin, stdout = _pipes(self.process)
        stdin.write(f"{folder}\n")
        stdin.flush()
        ready, _, _ = select.select([stdout], [], [], TIMEOUT_SECONDS)
        line = stdout.readline() if ready else ""
        if line:
            answer: dict[str, object] = json.loads(line)
            return answer
        if not ready:
            self.process.kill()
        status = self.close()
        said = (self.scratch / "stderr.txt").read_text(errors="replace")[-1500:]
        return {"outcome": "crash" if ready else "hang", "details": f"status {status}: {said}", "read": []}

    def close(self) -> int | None:
        """End the process; return how it ended."""
        if self.process is None:
            return None
        process, self.process = self.process, None
        stdin, stdout = _pipes(process)
        with suppress(BrokenPipeError):
            stdin.close()
        try:
            status = process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        stdout.close()
        return status


def _pipes(process: subprocess.Popen[str]) -> tuple[IO[str], IO[str]]:
    assert process.stdin is not None
    assert process.stdout is not None
    return process.stdin, process.stdout


@contextmanager
def _worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engines: list[str]) -> Iterator[Worker]:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    for variable in ("TMPDIR", "NEUROTRAILS_CACHE"):
        monkeypatch.setenv(variable, str(scratch))
    monkeypatch.setenv("NM_DISABLE_ANALYTICS", "True")
    worker = Worker(scratch, engines)
    try:
        yield worker
    finally:
        worker.close()


def _read(artifact: Artifact) -> Content:
    return {path.name: path.read_bytes() for path in sorted(artifact.folder.iterdir())}


def _write(folder: Path, content: Content) -> Path:
    folder.mkdir()
    for name, data in content.items():
        (folder / name).write_bytes(data)
    return folder


def _fuzz(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seeds: range
) -> tuple[list[str], Counter[object]]:
    """Run all seeds; return the findings, and how often each outcome was seen."""
    content = _read(artifact)
    (tmp_path / "secret").write_bytes(b"secret" * 1000)
    findings, outcomes = [], Counter[object]()
    with _worker(tmp_path, monkeypatch, ENGINE_NAMES) as worker:
        first = worker.run(_write(tmp_path / "good", content))
        assert (first["outcome"], first["read"]) == ("passed", []), first
        for seed in seeds:
            answer = worker.run(_write(tmp_path / f"case-{seed}", mutate(content, seed)))
            outcomes[answer["outcome"]] += 1
            if answer["outcome"] in ("crash", "hang", "unnamed") or answer["read"]:
                findings.append(f"seed {seed}: {answer['outcome']}, read {answer['read']}: {answer['details']}")
    return findings, outcomes


def test_hostile_artifacts(artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    findings, outcomes = _fuzz(artifact, tmp_path, monkeypatch, range(80))
    assert not findings, "\n\n".join(findings)
    assert outcomes["ArtifactError"] > 40, outcomes
    assert sum(outcomes.values()) > outcomes["ArtifactError"], "engines ran nothing"


@pytest.mark.large
def test_many_hostile_artifacts(artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    findings, _ = _fuzz(artifact, tmp_path, monkeypatch, range(1000, 2000))
    assert not findings, "\n\n".join(findings)


@pytest.mark.parametrize("command", ["crash", "hang", "unnamed", "read"])
def test_the_watch_sees_what_it_should(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """Faults on purpose, by a worker that runs something else in place of a case."""
    faults = {
        "crash": "import os; os.abort()",
        "hang": "import time; time.sleep(1000)",
        "unnamed": "raise RuntimeError('no name')",
        "read": f"open({str(tmp_path / 'secret')!r}).close()",
    }
    (tmp_path / "secret").write_text("secret")
    script = (
        "import sys, tests.runtime.fuzz_case as case, tests.runtime.fuzz_worker as worker\n"
        f"def run_case(folder, engines):\n    {faults[command]}\n"
        "case.run_case = run_case\nworker.main(sys.argv[1], [])\n"
    )
    monkeypatch.setattr("tests.runtime.test_fuzz.TIMEOUT_SECONDS", 3 if command == "hang" else 120)
    with _worker(tmp_path, monkeypatch, []) as worker:
        worker.command = [sys.executable, "-c", script, str(worker.scratch)]
        (tmp_path / "case").mkdir()
        answer = worker.run(tmp_path / "case")
    assert answer["outcome"] == ("passed" if command == "read" else command)
    assert answer["read"] == ([str((tmp_path / "secret").resolve())] if command == "read" else [])
    if command == "crash":
        assert "status -6" in str(answer["details"])
