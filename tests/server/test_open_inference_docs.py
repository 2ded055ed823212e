"""docs/open-inference.md lists the inputs, outputs, parameters and limits that there are."""

import re
from pathlib import Path

from server.compression import FREE_BYTES, MAX_RATIO, MIN_REPLY_BYTES
from server.oip.codec import MAX_VALUES
from server.oip.reply import OUTPUTS
from server.oip.request import INPUT, PROTOCOL_PARAMETERS, TAKES
from server.oip_api import WISHES

DOCS = Path("docs/open-inference.md").read_text(encoding="utf-8")


def column(heading: str) -> list[str]:
    """The first column of the table below a heading."""
    section = DOCS.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)


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
