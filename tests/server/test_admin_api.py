"""The admin API: on its own port, for those with its key, and all it does is to write `serving.yaml`."""

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from server.serving_file import Entry, read_serving, write_serving
from tests.artifacts import write_tiny_image_artifact, write_tiny_text_artifact
from tests.server.inputs import image_file
from tests.server.service import CORES, Service
from tests.server.test_startup import process

KEY = "the-key-of-those-who-may"
HEADERS = {"authorization": f"Bearer {KEY}"}
NEVER = 1e6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("admin")
    for seed, version in enumerate(("1", "2")):
        write_tiny_image_artifact(folder / "models" / "tiny-image" / version, version=version, seed=seed)
    write_tiny_text_artifact(folder / "models" / "tiny-text")
    shutil.copytree(folder / "models" / "tiny-image" / "1", folder / "models" / "tiny-image" / "3")
    return folder


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[Service]:
    file = folder / "serving.yaml"
    write_serving(file, {"tiny-image": Entry(version="1"), "tiny-text": Entry()})
    settings: dict[str, Any] = {"serving_file": file, "poll_seconds": NEVER, "batch_sizes": (1,)}
    with Service(folder / "models", admin_port=0, admin_key=SecretStr(KEY), **settings) as running:
        yield running.wait()


@pytest.fixture(scope="module")
def admin(service: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://127.0.0.1:{service.admin_port}", headers=HEADERS, timeout=60) as client:
        yield client


@pytest.fixture(autouse=True)
def _as_at_the_start(service: Service) -> Iterator[None]:
    yield
    write_serving(service.settings.serving_file, {"tiny-image": Entry(version="1"), "tiny-text": Entry()})
    service.reconciling().result()


def written(service: Service) -> dict[str, Entry]:
    reading = read_serving(service.settings.serving_file)
    assert reading is not None
    return dict(reading.models)


def state(admin: httpx.Client, name: str) -> dict[str, Any]:
    [found] = [model for model in admin.get("/admin/models").json()["models"] if model["name"] == name]
    assert isinstance(found, dict)
    return found


def until(admin: httpx.Client, name: str, **wanted: object) -> None:
    """Wait until a model has these fields: the API wakes who loads, nobody polls in this test."""
    while {field: state(admin, name)[field] for field in wanted} != wanted:
        pass


@pytest.mark.parametrize("path", ["/admin/models", "/v2/repository/index", "/", "/docs", "/nowhere"])
@pytest.mark.parametrize(
    "headers", [{}, {"authorization": "Bearer wrong-but-just-as-long"}, {"authorization": KEY}, {"x-api-key": "no"}]
)
def test_without_the_key_there_is_nothing(service: Service, path: str, headers: dict[str, str]) -> None:
    reply = httpx.get(f"http://127.0.0.1:{service.admin_port}{path}", headers=headers)
    assert reply.status_code == 401
    assert reply.headers["www-authenticate"] == "Bearer"
    assert KEY not in reply.text


def test_the_port_for_predictions_does_not_administrate(service: Service) -> None:
    assert service.client.get("/admin/models", headers=HEADERS).status_code == 404
    reply = service.client.post("/v2/repository/models/tiny-image/unload", headers=HEADERS)
    assert (reply.status_code, "admin port" in reply.json()["error"]) == (403, True)


def test_the_admin_port_does_not_predict(admin: httpx.Client) -> None:
    reply = admin.post("/predict", content=image_file(0))
    assert (reply.status_code, reply.json()["code"]) == (404, "not_found")
    assert admin.post("/admin/models").json()["code"] == "method_not_allowed"


def test_a_version_is_set_and_set_back(service: Service, admin: httpx.Client) -> None:
    assert state(admin, "tiny-image") == {
        "name": "tiny-image",
        "desired": "1",
        "available": ["3", "2", "1"],
        "live": "1",
        "loading": None,
        "retiring": None,
        "failure": None,
    }
    for version in ("2", "1"):
        reply = admin.put("/admin/models/tiny-image", json={"version": version, "min_heads": 2})
        assert (reply.status_code, reply.json()) == (202, {"name": "tiny-image", "version": version})
        assert written(service) == {"tiny-image": Entry(version=version, min_heads=2), "tiny-text": Entry()}
        until(admin, "tiny-image", live=version, retiring=None)
        assert service.client.post("/predict", content=image_file(0)).json()["version"] == version


def test_unloading_and_loading(service: Service, admin: httpx.Client) -> None:
    assert admin.delete("/admin/models/tiny-text").status_code == 202
    assert set(written(service)) == {"tiny-image"}
    until(admin, "tiny-text", live=None, desired=None)
    assert service.client.get("/readyz").status_code == 200
    assert admin.delete("/admin/models/tiny-text").json()["code"] == "unknown_model"
    assert admin.put("/admin/models/tiny-text").json() == {"name": "tiny-text", "version": "latest"}
    until(admin, "tiny-text", live="1", desired="latest")


@pytest.mark.parametrize(
    ("name", "body", "status", "code"),
    [
        ("tiny-image", {"version": "4"}, 404, "unknown_version"),
        ("tiny-image", {"version": "../2"}, 400, "bad_body"),
        ("tiny-image", {"version": 2}, 400, "bad_body"),
        ("tiny-image", {"path": "/models/other"}, 400, "bad_body"),
        ("tiny-image", {"min_heads": True}, 400, "bad_body"),
        ("tiny-image", [], 400, "bad_body"),
        ("tiny-image", {"version": "3"}, 409, "cannot_serve"),
        ("nobody", {"version": "1"}, 404, "unknown_model"),
        ("..", {}, 404, "not_found"),
        ("%2e%2e", {}, 404, "unknown_model"),
        ("%2e%2e%2ftiny-image", {}, 404, "not_found"),
        ("x" * 5000, {}, 404, "unknown_model"),
    ],
)
def test_what_is_wrong_is_not_written(
    service: Service, admin: httpx.Client, name: str, body: object, status: int, code: str
) -> None:
    before = service.settings.serving_file.read_bytes()
    reply = admin.put(f"/admin/models/{name}", json=body)
    assert (reply.status_code, reply.json()["code"]) == (status, code), reply.text
    assert len(reply.text) < 1000
    assert service.settings.serving_file.read_bytes() == before


def test_a_file_that_somebody_broke_is_not_overwritten(service: Service, admin: httpx.Client) -> None:
    service.settings.serving_file.write_text("models: {tiny-image: ")
    reply = admin.put("/admin/models/tiny-image", json={"version": "2"})
    assert (reply.status_code, reply.json()["code"]) == (409, "cannot_serve")
    assert service.settings.serving_file.read_text() == "models: {tiny-image: "
    service.reconciling().result()
    [problem] = admin.get("/admin/models").json()["problems"]
    assert "is no YAML" in problem


def test_a_version_that_cannot_be_loaded_is_reported(admin: httpx.Client) -> None:
    admin.put("/admin/models/tiny-image", json={"version": "2", "engine": "steam"})
    until(admin, "tiny-image", desired="2", loading=None)
    while state(admin, "tiny-image")["failure"] is None:
        pass
    found = state(admin, "tiny-image")
    assert (found["live"], "steam" in found["failure"]) == ("1", True)
    assert admin.get("/admin/models").json()["problems"] == [found["failure"]]
    [row] = [row for row in admin.post("/v2/repository/index").json() if row["version"] == "2"]
    assert row == {"name": "tiny-image", "version": "2", "state": "UNAVAILABLE", "reason": found["failure"]}


def test_the_repository_of_the_open_protocol(service: Service, admin: httpx.Client) -> None:
    def states(**body: object) -> dict[tuple[str, str], str]:
        rows = admin.post("/v2/repository/index", json=body).json()
        return {(row["name"], row["version"]): row["state"] for row in rows}

    assert states() == {
        ("tiny-image", "1"): "READY",
        ("tiny-image", "2"): "UNAVAILABLE",
        ("tiny-image", "3"): "UNAVAILABLE",
        ("tiny-text", "1"): "READY",
    }
    assert admin.post("/v2/repository/models/tiny-text/unload").status_code == 200
    until(admin, "tiny-text", live=None, retiring=None)
    assert set(states(ready=True)) == {("tiny-image", "1")}
    for body in ({"parameters": {"config": "{}"}}, {"parameters": {"file:1/model.onnx": "AAAA"}}, {"path": "x"}):
        assert admin.post("/v2/repository/models/tiny-text/load", json=body).status_code == 400
    assert set(written(service)) == {"tiny-image"}
    assert admin.post("/v2/repository/models/tiny-text/load").status_code == 200
    until(admin, "tiny-text", live="1")
    reply = admin.post("/v2/repository/models/nobody/load")
    assert (reply.status_code, set(reply.json())) == (404, {"error"})


def test_tritonclient_administrates_too(service: Service) -> None:
    code = (
        "import sys; from tritonclient import http; port, *headers = sys.argv[1:];"
        "client = http.InferenceServerClient('127.0.0.1:' + port); headers = dict([headers]);"
        "client.unload_model('tiny-text', headers=headers); client.load_model('tiny-text', headers=headers);"
        "print(sorted({row['name'] for row in client.get_model_repository_index(headers=headers)}))"
    )
    arguments = [str(service.admin_port), *next(iter(HEADERS.items()))]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.stdout == "['tiny-image', 'tiny-text']\n", done.stderr


@pytest.mark.parametrize("settings", [{}, {"admin_key": SecretStr(KEY)}, {"admin_port": 0}])
def test_off_without_a_port_or_without_a_key(
    folder: Path, settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with Service(folder / "models", serving_file=folder / "serving.yaml", batch_sizes=(1,), **settings) as service:
        service.wait()
        assert service.admin_port is None
    warned = any("The admin API is off" in record.message for record in caplog.records)
    assert warned == ("admin_port" in settings)


def test_keys_from_a_file_and_bad_ones(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# for the night shift\n{KEY}\n")
    settings: dict[str, Any] = {"serving_file": folder / "serving.yaml", "batch_sizes": (1,), "admin_port": 0}
    with Service(folder / "models", admin_key_file=file, **settings) as service:
        service.wait()
        reply = httpx.get(f"http://127.0.0.1:{service.admin_port}/admin/models", headers=HEADERS)
        assert reply.status_code == 200
    with pytest.raises(Exception, match="16 to 512") as error:
        Service(folder / "models", admin_key=SecretStr("short"), **settings)
    assert "short" not in str(error.value)


def test_a_port_that_is_taken_is_an_error(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        settings: dict[str, Any] = {"serving_file": folder / "serving.yaml", "batch_sizes": (1,)}
        with Service(folder / "models", admin_port=port, admin_key=SecretStr(KEY), **settings) as service:
            service.wait()
            [failure] = service.failures
            assert re.search(rf"admin API cannot listen on 127.0.0.1, port {port}", str(failure))


def test_what_the_file_is_written_as(service: Service, admin: httpx.Client) -> None:
    admin.put("/admin/models/tiny-image", content=json.dumps({"version": "2", "engine": "onnxruntime"}))
    assert service.settings.serving_file.read_text().splitlines()[1:] == [
        "models:",
        "  tiny-image:",
        "    version: '2'",
        "    engine: onnxruntime",
        "  tiny-text:",
        "    version: latest",
    ]
    until(admin, "tiny-image", live="2", retiring=None)


def test_a_signal_ends_both_ports(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEUROTRAILS_ADMIN_KEY", KEY)
    monkeypatch.setenv("NEUROTRAILS_SERVING_FILE", str(folder / "serving.yaml"))
    with process(folder / "models", engine="onnxruntime", cores=CORES, port=0, admin_port=0) as (running, log, _):
        [address] = re.findall(r"The admin API listens on (http://\S+)", "".join(log))
        assert httpx.get(f"{address}/admin/models", headers=HEADERS).status_code == 200
        running.send_signal(signal.SIGTERM)
        assert running.wait() == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{address}/admin/models", headers=HEADERS)
    assert KEY not in "".join(log)
