"""docs/models.md does what it says: its file is read, its commands run, its tables are complete."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from pydantic import SecretStr

from server.admin_api import create_admin_app
from server.catalog import version_order
from server.core import Core
from server.decode import Decoder
from server.keys import Keys
from server.metrics import PrometheusObserver
from server.serving_file import Entry, parse_serving
from server.settings import Settings
from tests.server.service import Service

DOCS = Path("docs/models.md").read_text(encoding="utf-8")
KEY = "a-key-that-nobody-can-guess"
PUBLIC, ADMIN = "127.0.0.1:8000", "127.0.0.1:8001"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCS, re.DOTALL)


def rows(heading: str) -> list[list[str]]:
    """The cells of the table below a heading, without its head."""
    section = DOCS.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = tmp_path / "served"
    shutil.copytree("models/newsgroups", models / "newsgroups")
    for version in ("1", "2"):
        folder = models / "fashion-mnist" / version
        shutil.copytree("models/fashion-mnist", folder)
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps({**manifest, "version": version}))
    file = tmp_path / "serving.yaml"
    [written] = blocks("yaml")
    file.write_text(written)
    monkeypatch.setenv("KEY", KEY)
    with Service(
        models, serving_file=file, poll_seconds=1e6, batch_sizes=(1,), admin_port=0, admin_key=SecretStr(KEY)
    ) as service:
        served = service.wait().client.get("/models").json()["models"]
        found = {model["name"]: (model["version"], model["engine"], model["min_heads"]) for model in served}
        assert found == {"fashion-mnist": ("2", "onnxruntime", 3), "newsgroups": ("1", "onnxruntime", 1)}
        commands, replies = blocks("bash"), blocks("json")
        assert len(commands) == len(replies) == 2
        for command, reply in zip(commands, replies, strict=True):
            assert ADMIN in command
            command = command.replace("curl", "curl -sS").replace(ADMIN, f"127.0.0.1:{service.admin_port}")
            done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
            assert json.loads(done.stdout) == json.loads(reply)
            service.reconciling().result()


def test_the_order_of_versions() -> None:
    for ascending in re.findall(r"\b\d[^ ,]*(?: < [^ ,]+[^ ,.])+", DOCS):
        versions = ascending.split(" < ")
        assert sorted(versions, key=version_order) == versions
    assert "1.9 < 1.10" in DOCS


def test_the_fields_of_the_file() -> None:
    assert [row[0].strip("`") for row in rows("serving.yaml")] == list(Entry.model_fields)
    assert parse_serving(blocks("yaml")[0].encode(), Path("serving.yaml")).models["fashion-mnist"].version == "2"


def test_the_settings() -> None:
    settings = Settings()
    for variable, default, _ in rows("Settings"):
        value = getattr(settings, variable.strip("`").removeprefix("NEUROTRAILS_").lower())
        shown = ":".join(map(str, value)) if isinstance(value, tuple) else "none" if value is None else str(value)
        assert default == shown, variable


def test_the_paths_of_the_admin_api() -> None:
    settings, observer = Settings(), PrometheusObserver()
    app = create_admin_app(Core(settings, Decoder(settings), observer), settings, observer, Keys([KEY]))
    routes = {f"{method} {route.path}" for route in app.routes for method in route.methods}  # type: ignore[attr-defined]
    assert {row[0].strip("`") for row in rows("Admin API")} == routes


def test_the_metrics() -> None:
    there = PrometheusObserver().render(ready=True).decode()
    for name, _ in rows("Metrics"):
        assert f"# TYPE {name.strip('`')} " in there
