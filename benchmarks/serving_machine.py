"""Which core does what in serving.py, and the server as a process of its own.

cores = choose_cores()
with ServerProcess(models, cpus=(cores.server,), log=log, engine="auto") as server:
    server.port, server.resident_bytes()
"""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from environment import REPOSITORY
from latency_results import Record
from runtime.errors import NeurotrailsError

READY_SECONDS = 300.0
"""Longest time that a server may take to load and warm its models."""
STOP_SECONDS = 60.0
"""Longest time that it may take to end."""
KEPT_VARIABLES = ("NEUROTRAILS_CACHE",)
"""Settings of the user that count here too; all others would make runs differ."""


class ServingBenchmarkError(NeurotrailsError):
    """A serving benchmark cannot be run, or its server failed."""


class Cores(Record):
    """The cores of a run."""

    server: int
    """CPU of the server with its engine, and of the bare predictor, which never run at once."""
    load: int
    """CPU of the load generator."""
    siblings: bool
    """Both are threads of one physical core, so that they slow each other down."""


def choose_cores() -> Cores:
    """Choose two CPUs, of two physical cores where there are. Raises ServingBenchmarkError where there is only one."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        raise ServingBenchmarkError(
            f"The server and the load generator need a core each, but this process may run on {len(cpus)} (CPU "
            f"{', '.join(map(str, cpus))}). Run it where it has at least 2."
        )
    first, *others = cpus
    family = _siblings(first)
    load = next((cpu for cpu in others if cpu not in family), others[0])
    return Cores(server=first, load=load, siblings=load in family)


def _siblings(cpu: int) -> set[int]:
    """CPUs that share a physical core with `cpu`; only itself where the system does not say."""
    found = {cpu}
    with contextlib.suppress(OSError):
        text = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text()
        for part in text.strip().split(","):
            first, _, last = part.partition("-")
            found |= set(range(int(first), int(last or first) + 1))
    return found


@contextmanager
def pinned(*cpus: int) -> Iterator[None]:
    """Keep this thread, and the processes and threads that it starts meanwhile, on these CPUs."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class ServerProcess:
    """`neurotrails serve` on a free port of this machine; a context manager that returns when all models are warm."""

    def __init__(self, models: Path, *, cpus: Sequence[int], log: Path, **settings: Any) -> None:
        """`settings` are those of `server.settings`; `log` gets what the server prints."""
        self.port = _free_port()
        self._log = log
        variables = {name: value for name, value in os.environ.items() if not name.startswith("NEUROTRAILS_")}
        variables |= {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
        settings = {"serving_file": str(log.with_name("none.yaml")), **settings}  # not one in the working folder
        for name, value in settings.items():
            variables[f"NEUROTRAILS_{name.upper()}"] = value if isinstance(value, str) else json.dumps(value)
        command = [sys.executable, str(REPOSITORY / "neurotrails.py"), "serve"]
        command += ["--models", str(models), "--port", str(self.port)]
        with log.open("ab") as output, pinned(*cpus):
            self._process = subprocess.Popen(
                command, cwd=REPOSITORY, env=variables, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def get(self, path: str) -> tuple[int, Any]:
        """Status and JSON of a GET request. Raises OSError where the server does not listen."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path)
            reply = connection.getresponse()
            return reply.status, json.loads(reply.read())
        finally:
            connection.close()

    def resident_bytes(self) -> int:
        """Resident memory of the server, without worker processes."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def worker_pids(self) -> list[int]:
        """Processes that the server has started: the workers of its engines."""
        found: list[int] = []
        for children in Path(f"/proc/{self.pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):  # that thread has ended
                found += map(int, children.read_text().split())
        return sorted(found)

    def __enter__(self) -> Self:
        deadline = time.monotonic() + READY_SECONDS
        try:
            while not self._ready():
                if self._process.poll() is not None:
                    raise ServingBenchmarkError(
                        f"The server ended with status {self._process.returncode}: {self._last_words()}"
                    )
                if time.monotonic() > deadline:
                    raise ServingBenchmarkError(
                        f"The server was not ready within {READY_SECONDS:g} s: {self._last_words()}"
                    )
                time.sleep(0.05)
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            status = self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            status = None
        if error is None and status != 0:
            raise ServingBenchmarkError(f"The server did not end well (status {status}): {self._last_words()}")

    def _ready(self) -> bool:
        try:
            return self.get("/readyz")[0] == 200
        except OSError:
            return False

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return " / ".join(lines[-5:]) or "it printed nothing"


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
