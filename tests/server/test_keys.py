"""API keys: who may ask what."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from server.config import load_settings
from server.errors import StartupError
from server.keys import Keys, read_keys_file
from server.middleware import OPEN_PATHS, PROBES, SECURITY_HEADERS
from tests.browser import CHROMIUM, Browser
from tests.server.service import Service

pytestmark = [
    pytest.mark.parametrize("engine_name", ["onnxruntime"], scope="session", indirect=True),
    pytest.mark.usefixtures("engine_name"),
]

FIRST, SECOND = "first-key-of-the-tests", "second-key-of-the-tests"


@pytest.fixture(scope="module")
def keyed(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text(f"# of the second client\n\n{SECOND}\n", encoding="utf-8")
    with Service(models, api_keys=(FIRST,), api_keys_file=file) as service:
        yield service.wait()


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {FIRST}"},
        {"authorization": f"bearer  {SECOND}"},
        {"x-api-key": FIRST},
        {"x-api-key": SECOND},
    ],
)
def test_a_valid_key_opens(keyed: Service, headers: dict[str, str]) -> None:
    assert keyed.client.post("/predict", content=b"ball", headers=headers).status_code == 200
    assert keyed.client.get("/metrics", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({}, "wants a key"),
        ({"x-api-key": FIRST[:-1]}, "not valid"),
        ({"x-api-key": FIRST + "x"}, "not valid"),
        ({"x-api-key": FIRST.upper()}, "not valid"),
        ({"authorization": f"Basic {FIRST}"}, "wants a key"),
        ({"authorization": "Bearer"}, "wants a key"),
        ({"authorization": "Bearer wrong", "x-api-key": FIRST}, "not valid"),
        ({"x-api-key": "ä".encode().decode("latin-1")}, "not valid"),
    ],
)
@pytest.mark.parametrize("path", ["/predict", "/models", "/metrics", "/page/describe", "/nowhere", "/healthz/", "/v2"])
def test_without_one_all_but_the_open_paths_are_closed(
    keyed: Service, headers: dict[str, str], words: str, path: str
) -> None:
    raw = {name: value.encode("latin-1") for name, value in headers.items()}
    reply = keyed.client.post(path, content=b"ball", headers=raw)  # type: ignore[arg-type]
    assert reply.status_code == 401
    assert words in reply.json()["error"]
    if path != "/v2":  # there an error is a sentence and nothing else
        assert (reply.json()["code"], reply.json()["id"]) == ("unauthorized", reply.headers["x-request-id"])
    assert reply.headers["www-authenticate"] == "Bearer"
    assert FIRST not in reply.text


def test_the_open_paths(keyed: Service) -> None:
    assert set(PROBES) <= set(OPEN_PATHS)
    for path in sorted(OPEN_PATHS):
        assert keyed.client.get(path).status_code == 200, path


def test_metrics_can_be_open(models: Path) -> None:
    with Service(models, api_keys=(FIRST,), metrics_without_key=True) as service:
        assert service.wait().client.get("/metrics").status_code == 200
        assert service.client.get("/models").status_code == 401


@pytest.mark.parametrize("path", ["/healthz", "/docs", "/", "/nowhere", "/predict", "/v2", "/metrics", "/openapi.json"])
def test_every_reply_has_the_security_headers_and_none_allows_another_origin(client: httpx.Client, path: str) -> None:
    reply = client.get(path, headers={"origin": "http://elsewhere.example"})
    for name in SECURITY_HEADERS:
        assert reply.headers[name]
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in reply.headers["content-security-policy"]
    assert not [name for name in reply.headers if name.startswith("access-control-")]
    asked = {"origin": "http://elsewhere.example", "access-control-request-method": "POST"}
    preflight = client.options(path, headers=asked)
    assert preflight.status_code in (404, 405)
    assert not [name for name in preflight.headers if name.startswith("access-control-")]


@pytest.mark.parametrize("key", ["", "short", "with a space in it", "with-an-umläut-in-it", "x" * 513])
def test_bad_keys_stop_the_start_and_are_not_repeated(key: str) -> None:
    with pytest.raises(StartupError, match="API key 2 must have 16 to 512") as caught:
        Keys([FIRST, key])
    assert not key or key not in str(caught.value)


def test_bad_key_files(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="cannot be read"):
        read_keys_file(tmp_path / "nowhere")
    (tmp_path / "empty").write_text("# nothing\n")
    with pytest.raises(StartupError, match="holds no API key"):
        read_keys_file(tmp_path / "empty")


def test_keys_in_the_environment_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEUROTRAILS_API_KEYS", f"{FIRST},{SECOND}")
    configured = load_settings({})
    assert [key.get_secret_value() for key in configured.settings.api_keys] == [FIRST, SECOND]
    assert "api_keys: ['**********', '**********']  # NEUROTRAILS_API_KEYS" in configured.as_yaml().splitlines()
    assert FIRST not in repr(configured)
    monkeypatch.setenv("NEUROTRAILS_API_KEYS", f"[{FIRST}")
    with pytest.raises(StartupError, match="api_keys") as caught:
        load_settings({})
    assert FIRST not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_the_page_asks_for_a_key_and_keeps_it_in_memory_only(keyed: Service) -> None:
    with Browser() as browser:
        page = browser.open(f"http://127.0.0.1:{keyed.port}/")
        page.wait("!document.getElementById('key-form').hidden")
        for key, sentence in (("a wrong one", "The server does not know this key."), (FIRST, None)):
            page.evaluate(f"document.getElementById('key').value = {key!r}; 0")
            page.click("#key-form button")
            if sentence is not None:
                page.wait(f"document.getElementById('loading').innerText == {sentence!r}")
        page.wait("!document.getElementById('columns').hidden")
        assert page.evaluate("document.getElementById('key-form').hidden") is True
        page.evaluate("chooseModel('tiny-text'); at('text').value = 'the ball'; takeText(); 0")
        page.wait("!document.getElementById('answer').hidden")
        kept = page.evaluate(
            "JSON.stringify([document.cookie, {...localStorage}, {...sessionStorage}, location.href, "
            "document.documentElement.outerHTML, document.getElementById('key').value])"
        )
        assert FIRST not in kept
        assert '-H "x-api-key: $KEY"' in page.evaluate("document.getElementById('curl').textContent")
