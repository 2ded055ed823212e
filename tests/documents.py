"""Examples in documents, run as a reader runs them: every ```bash and ```python block, and what is shown below it.

A block of any other kind (```sh for what starts or installs something) is not run.
"""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ADDRESS = "127.0.0.1:8000"
"""Of the server in examples."""
PASSING = {"id", "engine", "timing_ms"}
"""Fields of a reply that are different each time, or with each engine."""
NEARLY = 1e-4
"""How far engines may differ in a probability."""
_BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```\n(?:```(json|text)\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE)
_NUMBER = re.compile(r"(\d+\.\d+)")


@dataclass(frozen=True)
class Example:
    """A block of code, and what the document shows that it prints; None: nothing is shown."""

    path: str
    line: int
    language: str
    code: str
    shown: str | None

    def run(self, port: int) -> str:
        """Run it against a server on that port of this machine and return what it prints; it must not fail."""
        code = self.code.replace(ADDRESS, f"127.0.0.1:{port}")
        if self.language == "bash":
            if "curl" in code and shutil.which("curl") is None:
                pytest.skip("curl is not installed")
            code = code.replace("curl ", "curl -sS ").replace("neurotrails ", f"{sys.executable} -m neurotrails ")
            command = ["bash", "-euo", "pipefail", "-c", code]
        else:
            command = [sys.executable, "-W", "error", "-c", code]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def check(self, said: str) -> None:
        """Assert that `said` is what the document shows, but for ids, times, the engine and its rounding."""
        if self.shown is None:
            assert said
        elif self.shown.startswith("{"):
            alike(_lasting(json.loads(said)), _lasting(json.loads(self.shown)))
        else:
            alike(said, self.shown)


def examples_in(path: str) -> list[Example]:
    """All examples of a document that are run."""
    text = Path(path).read_text(encoding="utf-8")
    return [
        Example(path, text.count("\n", 0, block.start()) + 2, block[1], block[2], block[4])
        for block in _BLOCK.finditer(text)
    ]


def alike(said: Any, shown: Any, where: str = "") -> None:
    """Assert that two JSON values are equal, numbers within `NEARLY` or one unit of the last digit shown."""
    assert type(said) is type(shown), where
    if isinstance(shown, dict):
        assert said.keys() == shown.keys(), where
        for name in shown:
            alike(said[name], shown[name], f"{where}.{name}")
    elif isinstance(shown, list):
        assert len(said) == len(shown), where
        for index, value in enumerate(shown):
            alike(said[index], value, f"{where}[{index}]")
    elif isinstance(shown, str):
        apart, expected = _NUMBER.split(said), _NUMBER.split(shown)
        assert apart[::2] == expected[::2], where
        for number, digits in zip(apart[1::2], expected[1::2], strict=True):
            unit = 10.0 ** -len(digits.partition(".")[2])
            assert float(number) == pytest.approx(float(digits), abs=max(NEARLY, 1.01 * unit)), where
    elif isinstance(shown, float):
        assert said == pytest.approx(shown, abs=NEARLY), where
    else:
        assert said == shown, where


def _lasting(reply: dict[str, Any]) -> dict[str, Any]:
    return {name: "passing" if name in PASSING else value for name, value in reply.items()}
