"""What signals do to a real process under way, and its log in JSON."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.server.service import CORES

SLOW = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nba"
"""A request that has been admitted, and whose body is not complete."""


class Process:
    """`neurotrails serve` with a log in JSON."""

    def __init__(self, models: Path, *flags: str, before: str = "") -> None:
        arguments = ["serve", "--models", str(models), "--engine", "onnxruntime", "--cores", str(CORES), "--port", "0"]
        code = f"import sys, neurotrails\n{before}\nsys.exit(neurotrails.main())"
        self.popen = subprocess.Popen(
            [sys.executable, "-c", code, *arguments, "--log-format", "json", *flags],
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log: list[dict[str, str]] = []
        self.read_until("running on")
        self.url = self.log[-1]["message"].split()[3]
        self.read_until("All models are ready")

    def read_until(self, words: str) -> None:
        """Read the log, each line of which is JSON."""
        assert self.popen.stderr is not None
        while not (self.log and words in self.log[-1]["message"]):
            self.log.append(json.loads(self.popen.stderr.readline()))

    def connect(self) -> socket.socket:
        """A connection of one's own."""
        host, port = self.url.removeprefix("http://").split(":")
        return socket.create_connection((host, int(port)), timeout=60)

    def rest(self) -> list[str]:
        """The rest of the log."""
        assert self.popen.stderr is not None
        return self.popen.stderr.readlines()

    def end(self) -> None:
        """Leave nothing that runs."""
        self.popen.kill()
        self.popen.communicate()


@contextmanager
def process(models: Path, *flags: str, before: str = "") -> Iterator[Process]:
    running = Process(models, *flags, before=before)
    try:
        yield running
    finally:
        running.end()


def test_sigterm_is_not_ready_at_once_goes_on_accepting_and_finishes_what_was_admitted(models: Path) -> None:
    with process(models, "--drain-delay-seconds", "1.5") as running, running.connect() as slow:
        assert httpx.get(f"{running.url}/readyz").status_code == 200
        slow.sendall(SLOW)
        running.popen.send_signal(signal.SIGTERM)
        running.read_until("Told to stop")
        for path in ("/readyz", "/v2/health/ready"):
            assert httpx.get(f"{running.url}{path}").status_code == 503
        assert httpx.get(f"{running.url}/healthz").status_code == 200
        assert httpx.post(f"{running.url}/predict", content=b"ball").status_code == 200  # on a new connection
        running.read_until("Shutting down")
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{running.url}/healthz")
        slow.sendall(b"ll")
        assert slow.makefile("rb").read().startswith(b"HTTP/1.1 200")
        assert running.popen.wait(60) == 0
        lines = [*running.log, *map(json.loads, running.rest())]
    assert all({"time", "level", "logger", "message"} <= set(line) for line in lines)
    assert {"neurotrails", "neurotrails.request", "uvicorn.error"} <= {line["logger"] for line in lines}


@pytest.mark.parametrize(("first", "second"), [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGINT)])
def test_a_second_signal_ends_at_once(models: Path, first: signal.Signals, second: signal.Signals) -> None:
    with process(models, "--drain-delay-seconds", "300") as running, running.connect() as slow:
        slow.sendall(SLOW)
        running.popen.send_signal(first)
        running.read_until("Told to stop")
        running.popen.send_signal(second)
        assert running.popen.wait(60) == 128 + second


def test_ctrl_c_needs_no_delay(models: Path) -> None:
    with process(models, "--drain-delay-seconds", "300") as running:
        running.popen.send_signal(signal.SIGINT)
        assert running.popen.wait(60) == 0


HANGS = """
import threading, pathlib, server.models
load, flag, entered = server.models.load_engine, pathlib.Path({flag!r}), pathlib.Path({entered!r})
def load_hanging(*arguments):
    engine = load(*arguments)
    trunk = engine.trunk
    def hang(inputs):
        if flag.exists():
            entered.touch()
            threading.Event().wait()
        return trunk(inputs)
    engine.trunk = hang
    return engine
server.models.load_engine = load_hanging
"""


def test_an_engine_that_hangs_is_given_up(models: Path, tmp_path: Path) -> None:
    flag, entered = tmp_path / "hang", tmp_path / "entered"
    before = HANGS.format(flag=str(flag), entered=str(entered))
    with (
        process(models, "--shutdown-timeout-seconds", "1", before=before) as running,
        running.connect() as asking,
    ):
        flag.touch()
        asking.sendall(SLOW + b"ll")
        while not entered.exists():
            assert running.popen.poll() is None
            time.sleep(0.01)
        running.popen.send_signal(signal.SIGTERM)
        assert running.popen.wait(60) == 1  # it was admitted, and not answered
        assert any("giving it up" in line for line in running.rest())


def test_a_body_that_never_comes_does_not_delay_the_end(models: Path) -> None:
    flags = ["--shutdown-timeout-seconds", "1", "--body-timeout-seconds", "300", "--min-body-rate", "1"]
    with process(models, *flags) as running, running.connect() as slow:
        slow.sendall(SLOW)
        running.popen.send_signal(signal.SIGTERM)
        assert running.popen.wait(60) == 0  # the body never came, so nothing that was admitted is lost
