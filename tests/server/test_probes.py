"""Probes, metrics, the list of models, the description for machines and the page for people."""

import re
from typing import Any

import httpx
import pytest
from fastapi.openapi.models import OpenAPI
from prometheus_client.parser import text_string_to_metric_families

from server.app import PAGE
from server.schema import ErrorReply, ModelsReply, PredictReply
from tests.server.inputs import image_file


@pytest.fixture(scope="module")
def openapi(client: httpx.Client) -> dict[str, Any]:
    document: dict[str, Any] = client.get("/openapi.json").json()
    return document


def samples(client: httpx.Client) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    reply = client.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(reply.text)
        for sample in family.samples
    }


def grown(before: dict[Any, float], after: dict[Any, float], name: str, **labels: str) -> float:
    key = (name, frozenset(labels.items()))
    return after[key] - before.get(key, 0)


def test_probes(client: httpx.Client) -> None:
    assert client.get("/healthz").json() == {"status": "alive"}
    assert client.get("/readyz").json() == {"status": "ready"}


def test_models(client: httpx.Client, engine_name: str) -> None:
    reply = ModelsReply.model_validate_json(client.get("/models").content)
    image, text = reply.models
    assert (image.name, image.modality, image.default, image.heads) == ("tiny-image", "image", True, 3)
    assert (text.name, text.modality, text.default, text.heads) == ("tiny-text", "text", True, 3)
    assert image.labels == ["circle", "square", "triangle", "star", "cross"]
    assert (image.engine, image.cores) == (engine_name, 2)
    assert 0 < image.density < 0.5
    assert 0 < image.effective_macs < image.dense_macs


def test_metrics_count_what_happened(client: httpx.Client) -> None:
    before = samples(client)
    client.post("/predict?heads=2", files=[("file", image_file(seed)) for seed in range(3)])
    client.post("/predict?heads=9", content=image_file(0))
    client.get("/some/random/path")
    client.request("BREW", "/healthz")
    after = samples(client)

    model = {"model": "tiny-image"}
    route = {"route": "/predict"}
    assert grown(before, after, "neurotrails_requests_total", **route, method="POST", status="200") == 1
    assert grown(before, after, "neurotrails_requests_total", **route, method="POST", status="400") == 1
    assert grown(before, after, "neurotrails_requests_total", route="unmatched", method="GET", status="404") == 1
    assert grown(before, after, "neurotrails_requests_total", route="/healthz", method="other", status="405") == 1
    assert grown(before, after, "neurotrails_refusals_total", reason="bad_heads") == 1
    assert grown(before, after, "neurotrails_request_seconds_count", **route) == 2
    engines = {dict(labels)["engine"] for name, labels in after if name == "neurotrails_model_info"}
    at_once = engines == {"native"}
    for stage in ("decode", "queue", "network" if at_once else "trunk", "vote"):
        assert grown(before, after, f"neurotrails_{stage}_seconds_count", **model) == 1
        assert grown(before, after, f"neurotrails_{stage}_seconds_sum", **model) > 0
    for head in () if at_once else ("0", "1"):
        assert grown(before, after, "neurotrails_head_seconds_count", **model, head=head) == 1
    assert grown(before, after, "neurotrails_batch_rows_sum", **model) == 3
    assert grown(before, after, "neurotrails_rows_total", **model, heads_used="2", stopped_by="requested") == 3
    assert grown(before, after, "neurotrails_disagreement_count", **model) == 3
    versions = {name: dict(labels) for name, labels in after if name.endswith("_info")}
    assert set(versions["neurotrails_build_info"]) == {"version", "python"}
    assert not any("/some/random/path" in dict(labels).values() for _, labels in after)


def test_openapi_is_valid_and_complete(openapi: dict[str, Any]) -> None:
    OpenAPI.model_validate(openapi)
    ours = {path for path in openapi["paths"] if not path.startswith("/v2")}
    assert ours == {"/predict", "/models", "/healthz", "/readyz", "/metrics"}
    text = str(openapi)
    assert "HTTPValidationError" not in text
    for name in re.findall(r"#/components/schemas/(\w+)", text):
        assert name in openapi["components"]["schemas"]
    operations = [operation for path in openapi["paths"].values() for operation in path.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)


@pytest.mark.parametrize("method", ["post", "put"])
def test_openapi_describes_predict(openapi: dict[str, Any], method: str) -> None:
    operation = openapi["paths"]["/predict"][method]
    assert [parameter["name"] for parameter in operation["parameters"]] == [
        "model", "heads", "min_confidence", "target_accuracy", "timeout_ms", "top_k",
    ]  # fmt: skip
    assert set(operation["requestBody"]["content"]) == {
        "multipart/form-data", "application/json", "text/plain", "image/*", "application/octet-stream",
    }  # fmt: skip
    assert set(operation["responses"]) == {
        "200", "400", "401", "404", "408", "413", "415", "429", "500", "503", "504",
    }  # fmt: skip

    for status, reply in operation["responses"].items():
        [schema] = [content["schema"]["$ref"].rsplit("/", 1)[-1] for content in reply["content"].values()]
        assert schema == (PredictReply if status == "200" else ErrorReply).__name__


def test_the_example_in_openapi_works(openapi: dict[str, Any], client: httpx.Client) -> None:
    content = openapi["paths"]["/predict"]["post"]["requestBody"]["content"]
    assert client.post("/predict", json=content["application/json"]["example"]).status_code == 200


def test_the_documentation_loads_nothing_from_elsewhere(client: httpx.Client) -> None:
    reply = client.get("/docs")
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    assert reply.text == (PAGE / "docs.html").read_text(encoding="utf-8")
    assert not re.search(r"//[a-z0-9]|https?:|@import|url\(|<(script|img|link|iframe)[^>]*(src|href)", reply.text, re.I)
    for path in re.findall(r'(?:href=|ask\()"([^"#]+)"', reply.text):
        assert client.get(f"/{path}").status_code == 200
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "http" not in policy


@pytest.mark.parametrize("path", ["/redoc", "/docs/oauth2-redirect"])
def test_pages_that_need_the_network_are_off(client: httpx.Client, path: str) -> None:
    assert client.get(path).status_code == 404
