"""What the page is made of: its files, its headers, and what it is told of the models."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from runtime.artifact import Artifact
from server.page_api import FILES, FOLDER
from tests.server.service import Service

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def client(models: Path) -> Iterator[httpx.Client]:
    with Service(models) as running:
        yield running.wait().client


@pytest.mark.parametrize("path", FILES)
def test_files_come_as_they_are_with_a_strict_policy(client: httpx.Client, path: str) -> None:
    file, kind = FILES[path]
    reply = client.get(path)
    assert reply.content == (FOLDER / file).read_bytes()
    assert reply.headers["content-type"].startswith(kind)
    assert reply.headers["x-content-type-options"] == "nosniff"
    policy = dict(part.strip().split(" ", 1) for part in reply.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    assert {policy[name] for name in ("script-src", "style-src", "connect-src")} == {"'self'"}


def test_nothing_else_of_the_folder_is_served(client: httpx.Client) -> None:
    for path in ("/page/notes.json", "/page/docs.html", "/page/", "/page/../app.py", "/page/%2e%2e/app.py"):
        assert client.get(path).status_code == 404


def test_the_files_refer_to_nothing_outside_and_hold_nothing_inline() -> None:
    page, style, script = ((FOLDER / f"page.{kind}").read_text() for kind in ("html", "css", "js"))
    for content in (page, style, script):
        assert not re.search(r"https?://(?!127\.0\.0\.1)|@import|\burl\(|['\"]//", content)
    assert not re.search(r"<style|<script(?![^>]* src=)|\son\w+=|\sstyle=", page)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", script)
    paths = set(re.findall(r'(?:src|href)="(?!#|data:)([^"]+)"', page)) | set(re.findall(r'fetch\("([^"]+)"', script))
    assert {"page/page.css", "page/page.js", "page/examples.json", "page/describe", "docs"} <= paths


def test_what_the_page_links_to_is_there(client: httpx.Client) -> None:
    page = (FOLDER / "page.html").read_text()
    for path in re.findall(r'(?:src|href)="(?!#|data:)([^"]+)"', page):
        assert client.get(f"/{path}").status_code == 200


def test_description(client: httpx.Client, models: Path) -> None:
    described = {model["name"]: model for model in client.get("/page/describe").json()["models"]}
    plain = {model["name"]: model for model in client.get("/models").json()["models"]}
    assert set(described) == {"tiny-image", "tiny-text"}
    for name, model in described.items():
        assert {key: model[key] for key in plain[name]} == plain[name]
        manifest = Artifact.open(models / name).manifest
        assert model["early_exit"] == manifest.early_exit.model_dump(mode="json")
    assert described["tiny-image"]["sees"] == {"width": 12, "height": 12, "shorter": 12, "grey": True}
    assert described["tiny-text"]["sees"] == {"tokens": 32}


def test_examples_are_those_of_the_repository(tmp_path: Path) -> None:
    subprocess.run([sys.executable, EXAMPLES / "make_page_examples.py", tmp_path / "examples.json"], check=True)
    assert (tmp_path / "examples.json").read_bytes() == (FOLDER / "examples.json").read_bytes()
