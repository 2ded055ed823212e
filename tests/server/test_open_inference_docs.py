"""docs/open-inference.md does what it says: its commands run against a real server and give what is shown."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from server.compression import FREE_BYTES, MAX_RATIO, MIN_REPLY_BYTES
from server.oip.codec import MAX_VALUES
from server.oip.reply import OUTPUTS
from server.oip.request import INPUT, PROTOCOL_PARAMETERS, TAKES
from server.oip_api import WISHES
from tests.server.service import Service

DOCS = Path("docs/open-inference.md").read_text(encoding="utf-8")
BLOCKS = {
    language: (code, shown)
    for language, code, shown in re.findall(r"```(bash|python)\n(.*?)```\n```\w+\n(.*?)```", DOCS, re.DOTALL)
}
ADDRESS = "127.0.0.1:8000"


@pytest.fixture
def address(shipped: Service) -> str:
    return f"127.0.0.1:{shipped.port}"


def column(heading: str) -> list[str]:
    """The first column of the table below a heading."""
    section = DOCS.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)


def taken_apart(reply: dict[str, Any]) -> tuple[dict[str, Any], list[float]]:
    """A reply without its id and the probabilities in it, which other engines give slightly otherwise; and these."""
    probabilities = []
    for output in reply["outputs"]:
        if output["name"] == "probabilities":
            probabilities += [float(value.split(":")[0]) for value in output["data"]]
            output["data"] = [value.split(":")[1:] for value in output["data"]]
    return {name: value for name, value in reply.items() if name != "id"}, probabilities


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_curl_example(address: str) -> None:
    code, shown = BLOCKS["bash"]
    assert ADDRESS in code
    done = subprocess.run(
        ["bash", "-c", code.replace("curl", "curl -sS").replace(ADDRESS, address)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    reply, probabilities = taken_apart(json.loads(done.stdout))
    documented, documented_probabilities = taken_apart(json.loads(shown))
    assert reply == documented
    assert probabilities == pytest.approx(documented_probabilities, abs=1e-4)


def test_the_tritonclient_example(address: str) -> None:
    code, shown = BLOCKS["python"]
    assert ADDRESS in code
    done = subprocess.run([sys.executable, "-c", code.replace(ADDRESS, address)], capture_output=True, text=True)
    assert done.stdout == shown, done.stderr


def test_the_tables_are_complete() -> None:
    assert f"named `{INPUT}`" in DOCS
    assert column("Input") == list(TAKES["image"])
    assert column("Outputs") == list(OUTPUTS)
    assert sorted(column("Parameters of a request")) == sorted((*WISHES, *PROTOCOL_PARAMETERS))


def test_the_limits_are_named() -> None:
    assert (FREE_BYTES, MAX_RATIO, MIN_REPLY_BYTES) == (2**20, 100, 2**10)
    assert MAX_VALUES == 250_000
    assert "at most 250,000 values" in DOCS
    assert "beyond 1 MiB and 100 times its size" in DOCS
    assert "replies of 1 KiB or more" in DOCS
