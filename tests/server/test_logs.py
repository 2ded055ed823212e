"""The log: one line per request in both formats, nothing of what must stay private, no line that a client has made."""

import json
import logging
import sys
from pathlib import Path

import pytest

from server.logs import JsonFormatter, TextFormatter
from tests.server.inputs import image_file
from tests.server.service import Service

KEY = "a-key-of-these-tests"


def record(message: str, *args: object, trace: bool = False) -> logging.LogRecord:
    error = None
    if trace:
        try:
            raise ValueError("first\n2026-01-01 INFO neurotrails: forged")
        except ValueError:
            error = sys.exc_info()
    return logging.LogRecord("neurotrails", logging.INFO, "file", 1, message, args, error)


@pytest.mark.parametrize("hostile", ["a\nb", "a\r\nb", "a\x1b[2Jb", "a\u2028b", "a\x85b", "a\x00b", "a\ud800b"])
def test_a_record_is_one_line_whatever_it_holds(hostile: str) -> None:
    line = TextFormatter().format(record("about %s", hostile))
    assert len(line.splitlines()) == 1
    assert line.isprintable()
    line.encode()
    line = JsonFormatter().format(record("about %s", hostile))
    assert len(line.splitlines()) == 1
    assert line.isascii()
    assert json.loads(line)["message"] == f"about {hostile}"


def test_tracebacks_forge_no_lines() -> None:
    head, *rest = TextFormatter().format(record("failed", trace=True)).splitlines()
    assert head.endswith("INFO neurotrails: failed")
    assert any("forged" in line for line in rest)
    assert all(line.startswith("    ") for line in rest)
    [line] = JsonFormatter().format(record("failed", trace=True)).splitlines()
    assert "forged" in json.loads(line)["error"]


def test_every_request_is_one_line(models: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with Service(models, api_keys=(KEY,)) as service:
        client = service.wait().client
        client.headers["x-api-key"] = KEY
        answered = client.post("/predict?heads=2", files=[("file", image_file(seed)) for seed in range(3)])
        refused = client.post("/predict?model=nope", content=b"a secret text\n2026 INFO forged")
        client.get("/a/path%0Ainvented", headers={"x-request-id": "good-id"})
        client.request("BREW", "/healthz", headers={"x-request-id": "bad id"})
        tensor = {"name": "input", "datatype": "BYTES", "shape": [1], "data": ["a secret text"]}
        client.post("/v2/models/tiny-text/infer", json={"inputs": [tensor]})
    records = [one for one in caplog.records if one.name.startswith(("neurotrails", "uvicorn"))]  # not the client's
    for formatter in (JsonFormatter(), TextFormatter()):
        text = "\n".join(map(formatter.format, records))
        assert not any(private in text for private in ("secret", "invented", KEY, "forged", "bad id", "BREW"))
    lines = [json.loads(JsonFormatter().format(one)) for one in records if one.name == "neurotrails.request"]
    first, second, third, fourth, fifth = lines
    assert {name: first[name] for name in ("id", "method", "route", "status", "model", "version", "rows")} == {
        "id": answered.headers["x-request-id"], "method": "POST", "route": "/predict", "status": 200,
        "model": "tiny-image", "version": "1", "rows": 3,
    }  # fmt: skip
    assert first["heads_used"] == {"2": 3}
    phases = [first[f"{phase}_seconds"] for phase in ("decode", "queue", "compute")]
    assert all(seconds >= 0 for seconds in phases)
    assert sum(phases) <= first["seconds"] + 1e-5
    assert (second["id"], second["status"], second["code"]) == (refused.headers["x-request-id"], 404, "unknown_model")
    assert (third["id"], third["route"], third["status"]) == ("good-id", "unmatched", 404)
    assert (fourth["method"], fourth["route"], fourth["status"]) == ("other", "/healthz", 405)
    assert (fifth["route"], fifth["model"]) == ("/v2/models/{name}/infer", "tiny-text")
    text = TextFormatter().format(next(one for one in records if one.name == "neurotrails.request"))
    assert f"id={first['id']} method=POST route=/predict status=200 seconds=" in text
    assert "heads_used=2:3" in text
