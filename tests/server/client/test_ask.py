"""The verb `ask` prints what the verb `predict` prints, with a server in between."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from neurotrails import main
from tests.server.client.scripted import Scripted, reply
from tests.server.inputs import image_file, text
from tests.server.service import CORES, Service

pytestmark = [
    pytest.mark.parametrize("engine_name", ["onnxruntime"], scope="session", indirect=True),
    pytest.mark.usefixtures("engine_name"),
]


def rounded(document: dict[str, Any]) -> Any:
    """The predictions of a document, with the six digits that a server gives."""
    return json.loads(json.dumps(document["predictions"]), parse_float=lambda digits: float(f"{float(digits):.4g}"))


@pytest.fixture
def address(service: Service) -> list[str]:
    return ["--url", f"http://127.0.0.1:{service.port}"]


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    for seed in range(2):
        (tmp_path / f"{seed}.png").write_bytes(image_file(seed))
    return [str(tmp_path / f"{seed}.png") for seed in range(2)]


@pytest.mark.parametrize("wish", [[], ["--heads", "2", "--top-k", "3"], ["--min-confidence", "0.5"]])
def test_images(
    models: Path, address: list[str], pictures: list[str], wish: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    local = ["predict", str(models / "tiny-image"), *pictures, *wish, "--engine", "onnxruntime", "--cores", str(CORES)]
    assert main(local) == 0
    expected = capsys.readouterr().out
    assert main(["ask", *pictures, *wish, *address]) == 0
    assert capsys.readouterr().out == expected

    assert main([*local, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert main(["ask", *pictures, *wish, *address, "--json"]) == 0
    asked = json.loads(capsys.readouterr().out)
    assert rounded(asked) == rounded(document)
    assert set(asked) == {*document, "id", "timing_ms"}


def test_text_from_the_standard_input(
    address: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text(1).encode())))
    assert main(["ask", "-", "--model", "tiny-text", "--heads", "1", *address]) == 0
    [vote, _] = capsys.readouterr().out.splitlines()
    assert vote.startswith("-: ")
    assert vote.endswith("; 1 of 3 heads (requested)")


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, pictures: list[str]) -> None:
    monkeypatch.setenv("NEUROTRAILS_CLIENT_KEY", "secret")
    said = reply(403, b'{"error": "No.", "code": "forbidden", "id": "1"}')
    with Scripted([said]) as server:
        assert main(["ask", *pictures, "--url", server.url]) == 1
    [(_, headers)] = server.requests
    assert headers["authorization"] == "Bearer secret"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "nothing to predict"),
        (["nowhere.png"], "'nowhere.png' cannot be read: No such file"),
        (["PICTURE", "--heads", "4"], "heads must be from 1 to 3"),
        (["PICTURE", "--model", "abacus"], "abacus"),
        (["PICTURE", "--url", "localhost"], "'localhost' is not the address of a server"),
        (["PICTURE", "--url", "http://127.0.0.1:1"], "There is no connection to http://127.0.0.1:1"),
        (["PICTURE", "--top-k", "0"], "top_k must be a whole number of at least 1, not 0"),
    ],
)
def test_errors(
    address: list[str], pictures: list[str], capsys: pytest.CaptureFixture[str], arguments: list[str], problem: str
) -> None:
    given = [pictures[0] if argument == "PICTURE" else argument for argument in arguments]
    where = [] if "--url" in given else address
    assert main(["ask", *given, *where]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("neurotrails ask: ")
    assert problem in captured.err
