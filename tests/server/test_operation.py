"""docs/operation.md is true, Compose and image agree with it, probes answer under full load, labels do not grow."""

import re
import threading
from pathlib import Path

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from server.process import MARGIN_SECONDS
from server.protocol import RESERVED_CONNECTIONS
from server.settings import Settings
from tests.server.gate import Gate
from tests.server.inputs import image_file
from tests.server.operation_tables import DOCUMENT, with_tables
from tests.server.service import Service

pytestmark = [
    pytest.mark.parametrize("engine_name", ["onnxruntime"], scope="session", indirect=True),
    pytest.mark.usefixtures("engine_name"),
]

ROOT = Path(__file__).parents[2]
DOCS = DOCUMENT.read_text(encoding="utf-8")


def test_the_tables_are_those_of_the_code() -> None:
    assert with_tables(DOCS) == DOCS, "python -m tests.server.operation_tables"


def test_limits_and_codes_in_the_document_exist() -> None:
    limits = DOCS[DOCS.index("| limit |") : DOCS.index("Nothing is unpickled")]
    named = set(re.findall(r"`([A-Z_]+)`", limits))
    assert named
    assert {name.lower() for name in named} <= set(Settings.model_fields)
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "server").rglob("*.py"))
    sources += (ROOT / "runtime" / "preprocess.py").read_text(encoding="utf-8")
    for code in re.findall(r"`([a-z_]+)`", limits):
        assert f'"{code}"' in sources, code
    assert f"on {RESERVED_CONNECTIONS} more only probes" in DOCS
    for name in re.findall(r"NEUROTRAILS_([A-Z_]+)", DOCS):
        assert name == "CONFIG" or name.lower() in Settings.model_fields


def test_compose_waits_longer_than_the_server_takes() -> None:
    [service] = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"].values()
    image = (ROOT / "docker" / "Dockerfile").read_text()
    [delay] = re.findall(r"NEUROTRAILS_DRAIN_DELAY_SECONDS=(\d+)", image)
    timeout = Settings.model_fields["shutdown_timeout_seconds"].default
    environment = {
        name: value for name, value in service["environment"].items() if "TIMEOUT" in name or "DRAIN" in name
    }
    assert not environment, "then count them here"
    assert int(service["stop_grace_period"].removesuffix("s")) > int(delay) + timeout + MARGIN_SECONDS
    assert "/readyz" in str(service["healthcheck"]["test"])
    assert "/healthz" in re.findall(r"HEALTHCHECK.*\n.*", image)[0]
    for name in {*service["environment"], *re.findall(r"NEUROTRAILS_[A-Z_]+", image)}:
        assert name.removeprefix("NEUROTRAILS_").lower() in Settings.model_fields


def test_it_listens_on_this_machine_only_outside_of_containers() -> None:
    assert Settings().host == "127.0.0.1"
    assert "NEUROTRAILS_HOST=0.0.0.0" in (ROOT / "docker" / "Dockerfile").read_text()


def test_probes_answer_while_every_thread_and_the_whole_line_are_taken(models: Path, gate: Gate) -> None:
    with Service(models, max_waiting_rows=8, max_inputs=4, decode_workers=1, max_connections=40) as service:
        service.wait()
        stuck = threading.Event()
        for _ in range(4):
            service.core._decoder._pool.submit(stuck.wait)  # the threads that decode
        gate.open.clear()  # the engines
        statuses: list[int] = []

        def ask() -> None:
            statuses.append(httpx.post(f"{url}/predict", content=image_file(0), timeout=60).status_code)

        url = f"http://127.0.0.1:{service.port}"
        asking = [threading.Thread(target=ask) for _ in range(30)]
        for thread in asking:
            thread.start()
        try:
            while not statuses:  # the line is full: some are refused
                asking[0].join(0.01)
            for _ in range(20):
                for path in ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready", "/metrics"):
                    assert httpx.get(f"{url}{path}", timeout=60).status_code == 200
            page = httpx.get(f"{url}/metrics").text
            assert float(re.findall(r"^neurotrails_requests_in_progress (\S+)", page, re.M)[0]) >= 2
            assert "neurotrails_ready 1.0" in page
        finally:
            stuck.set()
            gate.release()
            for thread in asking:
                thread.join()
        assert set(statuses) == {200, 429}


def test_random_paths_methods_and_names_make_no_new_series(service: Service) -> None:
    def send(number: int) -> None:
        client = service.client
        client.get(f"/{number}/x")
        client.request(f"METHOD{number}", f"/predict?q{number}=1")
        client.post(f"/predict?model=m{number}&heads={number}x", content=b"ball")
        client.post(f"/v2/models/m{number}/versions/{number}/infer", content=b"{}")
        client.get(f"/v2/models/m{number}/ready", headers={"host": f"h{number}", "x-request-id": f"i{number}"})

    def series() -> set[tuple[str, frozenset[tuple[str, str]]]]:
        families = text_string_to_metric_families(service.client.get("/metrics").text)
        return {(one.name, frozenset(one.labels.items())) for family in families for one in family.samples}

    send(0)
    series()
    before = series()
    for number in range(1, 30):
        send(number)
    assert series() == before


def test_a_failure_inside_shows_nothing_of_itself(service: Service) -> None:
    secret = "the secret path /srv/model"

    def fail(*_: object) -> None:
        raise RuntimeError(secret)

    before = service.core.describe
    service.core.describe = fail  # type: ignore[method-assign, assignment]
    try:
        for path in ("/models", "/v2/models/tiny-text", "/page/describe"):
            reply = service.client.get(path)
            assert reply.status_code == 500
            assert reply.json()["error"] == "The server failed on this request; its log has more."
            assert not any(word in reply.text for word in ("Traceback", "RuntimeError", secret, ".py"))
            assert reply.headers["x-request-id"]
            assert reply.headers["x-content-type-options"] == "nosniff"
    finally:
        service.core.describe = before  # type: ignore[method-assign]
