"""docs/serving.md names the parameters, reasons, settings, metrics and errors that there are."""

import json
import re
from pathlib import Path
from typing import get_args

import httpx
import pytest

from runtime.predictor import StopReason
from server.errors import ServerError
from server.schema import PARAMETERS
from server.settings import Settings

DOCS = Path("docs/serving.md").read_text(encoding="utf-8")

pytestmark = [
    pytest.mark.parametrize("engine_name", ["onnxruntime"], scope="session", indirect=True),
    pytest.mark.usefixtures("engine_name"),
]


def table(heading: str) -> list[list[str]]:
    """The cells of the first table below a line, without its head."""
    lines = DOCS[DOCS.index(heading) :].splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("|---"))
    rows = []
    for line in lines[start + 1 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def all_kinds(kind: type[ServerError]) -> list[type[ServerError]]:
    return [kind, *(each for child in kind.__subclasses__() for each in all_kinds(child))]


def test_parameters_and_reasons() -> None:
    assert [row[0] for row in table("## What a request may ask for")] == [f"`{p['name']}`" for p in PARAMETERS]
    assert [row[0] for row in table("Every input says")] == [f"`{reason}`" for reason in get_args(StopReason)]


def test_settings() -> None:
    settings = Settings()
    for variable, default, _ in table("## Settings"):
        name = variable.strip("`").removeprefix("NEUROTRAILS_").lower()
        value = getattr(settings, name)
        assert default == ("all" if value is None else json.dumps(value)), name
    [timeout] = [row[1] for row in table("## What a request may ask for") if row[0] == "`timeout_ms`"]
    assert (
        f"default {settings.timeout_seconds * 1000:,.0f}, at most {settings.max_timeout_seconds * 1000:,.0f}" in timeout
    )


def test_metrics(client: httpx.Client) -> None:
    client.post("/predict", content=b"ball")
    found = set(re.findall(r"^# TYPE (\w+)", client.get("/metrics").text, re.MULTILINE))
    for row in table("## Watching it"):
        for name in re.findall(r"`(neurotrails_\w+)`", row[0]):
            assert name in found


def test_errors(client: httpx.Client) -> None:
    errors = table("## Errors")
    replies = client.get("/openapi.json").json()["paths"]["/predict"]["post"]["responses"]
    assert set(replies) - {"200"} <= {row[0] for row in errors}
    raised = "".join(path.read_text() for package in ("runtime", "server") for path in Path(package).rglob("*.py"))
    for status, codes, _ in errors:
        assert int(status) in {kind.status for kind in all_kinds(ServerError)}
        for code in re.findall(r"`(\w+)`", codes):
            assert f'"{code}",' in raised or code.removeprefix("bad_") in {p["name"] for p in PARAMETERS}, code


def test_compose_sheds_as_the_page_says() -> None:
    assert 'NEUROTRAILS_MIN_HEADS: "1"' in Path("compose.yaml").read_text()
