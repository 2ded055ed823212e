"""Bounds of connections on real sockets: how many, how slow, and what is no HTTP."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.protocol import RESERVED_CONNECTIONS
from tests.server.service import Service

pytestmark = [
    pytest.mark.parametrize("engine_name", ["onnxruntime"], scope="session", indirect=True),
    pytest.mark.usefixtures("engine_name"),
]

HELLO = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nball"


@contextmanager
def connected(service: Service) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as connection:
        yield connection


def exchange(connection: socket.socket, sent: bytes) -> tuple[int, dict[str, str], dict[str, Any]]:
    """Send bytes and read until the server closes: status, headers and JSON body."""
    connection.sendall(sent)
    head, _, body = connection.makefile("rb").read().partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    return int(first.split()[1]), headers, json.loads(body)


@pytest.mark.parametrize("begun", [b"", b"POST /predict HTTP/1.1\r\nhost: x\r\nx-slow: "])
def test_headers_that_do_not_come(models: Path, begun: bytes) -> None:
    with Service(models, header_timeout_seconds=0.2) as service, connected(service.wait()) as connection:
        if not begun:
            assert connection.makefile("rb").read() == b""  # nothing asked, nothing answered
            return
        status, headers, body = exchange(connection, begun)
        assert (status, body["code"], headers["connection"]) == (408, "header_timeout", "close")
        assert body["id"] == headers["x-request-id"]


def test_headers_that_drip_do_not_keep_a_connection(models: Path) -> None:
    with Service(models, header_timeout_seconds=0.3) as service, connected(service.wait()) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\n")
        connection.setblocking(False)
        received = b""
        while b"header_timeout" not in received:
            connection.send(b"x")
            time.sleep(0.02)
            with suppress(BlockingIOError):
                received += connection.recv(65536)


def test_a_request_on_a_kept_connection_has_the_whole_time_again(models: Path) -> None:
    with Service(models, header_timeout_seconds=0.5) as service, connected(service.wait()) as connection:
        for _ in range(3):  # together longer than the time for one
            connection.sendall(HELLO[:20])
            time.sleep(0.2)
            connection.sendall(HELLO[20:])
            assert connection.recv(12) == b"HTTP/1.1 200"
            rest = b""
            while not rest.endswith(b"}"):
                rest += connection.recv(65536)


def test_an_idle_connection_is_closed(models: Path) -> None:
    with Service(models, keep_alive_seconds=1) as service, connected(service.wait()) as connection:
        connection.sendall(HELLO)
        assert connection.makefile("rb").read().startswith(b"HTTP/1.1 200")  # and then the end


def test_a_client_that_takes_no_replies_is_cut_off(models: Path) -> None:
    with Service(models, body_timeout_seconds=0.3, log_requests=False) as service, socket.socket() as connection:
        service.wait()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", service.port))
        connection.settimeout(0.5)
        asked = b"GET /page/examples.json HTTP/1.1\r\nhost: x\r\n\r\n" * 100
        with suppress(TimeoutError, ConnectionError):
            while True:  # until the server reads no more, as nobody takes its replies
                connection.sendall(asked)
        while service._server.server_state.connections:  # the connection is still open on this side
            time.sleep(0.01)
        assert service.client.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    "sent",
    [b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nx: " + b"a" * 100_000],
)
def test_what_is_no_http_is_refused_in_our_shape(service: Service, sent: bytes) -> None:
    with connected(service) as connection:
        status, headers, body = exchange(connection, sent)
    assert (status, body["code"]) == (400, "bad_http")
    assert body["id"] == headers["x-request-id"]
    assert headers["x-content-type-options"] == "nosniff"


def test_a_wish_for_another_protocol_is_ignored(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    reply = service.client.get("/healthz", headers={"connection": "upgrade", "upgrade": "websocket"})
    assert reply.status_code == 200
    assert not caplog.records


def test_beyond_the_limit_only_probes_are_answered(models: Path) -> None:
    with Service(models, max_connections=3) as service, ExitStack() as held:
        service.wait()
        service.client.close()
        for _ in range(3):
            connection = held.enter_context(connected(service))
            connection.sendall(HELLO[:-2])  # all three are taken by requests under way
        url = f"http://127.0.0.1:{service.port}"
        refused = httpx.post(f"{url}/predict", content=b"ball")
        while refused.status_code != 503:  # the connections of before have ended or the new have begun
            refused = httpx.post(f"{url}/predict", content=b"ball")
        assert refused.json()["code"] == "too_many_connections"
        assert refused.json()["id"] == refused.headers["x-request-id"]
        assert (refused.headers["connection"], refused.headers["retry-after"]) == ("close", "1")
        assert set(httpx.get(f"{url}/v2").json()) == {"error"}
        for path in ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"):
            assert httpx.get(f"{url}{path}").status_code == 200, path
        for _ in range(RESERVED_CONNECTIONS):
            held.enter_context(connected(service))
        with connected(service) as one_more:
            status, _, body = exchange(one_more, b"")
            assert (status, body["code"]) == (503, "too_many_connections")
        connection.sendall(HELLO[-2:])  # who was in is answered
        assert connection.recv(12) == b"HTTP/1.1 200"
        service.client = httpx.Client()
