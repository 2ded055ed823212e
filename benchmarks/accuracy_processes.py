"""Processes of the study: each training and each measurement is one of its own, and leaves a log in its run folder.

A run folder is locked while a process works in it, so two studies side by side never train the same run. The lock is
inherited by the process: it holds as long as the process lives, even when the study itself was killed.
"""

import fcntl
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from environment import REPOSITORY
from runtime.errors import NeurotrailsError

LOG = "study.log"
"""Everything that the processes of a run printed."""
TIMES = "study-times.jsonl"
"""One line for each training process that ended, and one for each that started."""
LOCK = ".study-lock"


class ProcessFailed(NeurotrailsError):  # noqa: N818 - reads as a statement
    """A process ended with an error; the message ends with its last lines."""


class Locked(NeurotrailsError):  # noqa: N818 - reads as a statement
    """Another process works in the run folder."""


class Times(BaseModel):
    """How long a run was trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    wall_seconds: float
    """Of all training processes that ended by themselves, start-up and data preparation included."""
    core_seconds: float
    """CPU time of the same processes."""
    processes: int
    """Training processes that were started."""
    killed: int
    """Those among them that did not end by themselves; their time is not known."""


class Processes:
    """Starts processes and knows those that live, so that none outlives the study that is told to stop."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._live: set[subprocess.Popen[bytes]] = set()
        self._guard = threading.Lock()

    def run(self, run: Path, command: Sequence[str], *, timed: bool = False) -> None:
        """Run a command to its end. Raises Locked, or ProcessFailed."""
        run.mkdir(parents=True, exist_ok=True)
        with _locked(run) as lock, (run / LOG).open("ab") as log:
            if timed:
                _note(run, {"event": "started"})
            started = time.perf_counter()
            process = subprocess.Popen(
                command,
                cwd=REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | {"OMP_NUM_THREADS": str(self.threads), "PYTHONPATH": _import_path()},
                pass_fds=[lock],
            )
            with self._guard:
                self._live.add(process)
            try:
                _, status, usage = os.wait4(process.pid, 0)  # unlike `wait`, it tells the CPU time of this child alone
                process.returncode = os.waitstatus_to_exitcode(status)
            finally:
                with self._guard:
                    self._live.discard(process)
            if timed and process.returncode >= 0:
                seconds = time.perf_counter() - started
                _note(run, {"event": "ended", "wall": seconds, "core": usage.ru_utime + usage.ru_stime})
        if process.returncode:
            raise ProcessFailed(f"status {process.returncode}; the end of {run / LOG}:\n{_last_lines(run / LOG)}")

    def stop(self) -> None:
        """Ask all live processes to end."""
        with self._guard:
            for process in self._live:
                process.send_signal(signal.SIGTERM)


def read_times(run: Path) -> Times:
    """Times of a run's training processes so far."""
    path = run / TIMES
    notes = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    ends = [note for note in notes if note["event"] == "ended"]
    return Times(
        wall_seconds=round(sum(note["wall"] for note in ends), 1),
        core_seconds=round(sum(note["core"] for note in ends), 1),
        processes=len(notes) - len(ends),
        killed=len(notes) - 2 * len(ends),
    )


@contextmanager
def _locked(run: Path) -> Iterator[int]:
    """Hold the lock of a run folder; yields its file descriptor. Raises Locked."""
    descriptor = os.open(run / LOCK, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield descriptor
    except BlockingIOError as error:
        raise Locked(f"another process works in {run}; it is left alone") from error
    finally:
        os.close(descriptor)


def _note(run: Path, note: dict[str, object]) -> None:
    with (run / TIMES).open("a") as file:
        file.write(json.dumps(note) + "\n")


def _import_path() -> str:
    """Where the processes find this project: where this process found it."""
    return os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])


def _last_lines(path: Path, count: int = 8) -> str:
    text = path.read_text(errors="replace").replace("\r", "\n")
    return "\n".join([line for line in text.splitlines() if line.strip()][-count:])
