"""The native engine keeps nothing of what it has computed."""

import subprocess
import sys
from pathlib import Path

CALLS = 10_000
MOST_BYTES = 256 * 1024
MOST_BLOCKS = 1000
"""One object that every call leaves behind would be ten times as much."""


def test_memory_does_not_grow_over_ten_thousand_predictions(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.runtime.native.soak", str(tmp_path), str(CALLS)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    grown_bytes, grown_blocks = map(int, done.stdout.split())
    assert grown_bytes <= MOST_BYTES
    assert grown_blocks <= MOST_BLOCKS
