"""What only somebody hostile sends: bombs, drips, and names that would be opened or run if anybody trusted them."""

import ast
import io
import json
import socket
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.server.service import Service

ROOT = Path(__file__).parents[2]
WIDE, HIGH = 16_000, 15_999
TINY_TEXT = "/v2/models/tiny-text/infer"


def png() -> bytes:
    """A whole PNG of 256 MP of zeros, in 250 kB."""
    head = struct.pack(">IIBBBBB", WIDE, HIGH, 8, 0, 0, 0, 0)
    rows = zlib.compressobj(9)
    row = bytes(WIDE + 1) * 100
    data = b"".join(rows.compress(row) for _ in range(HIGH // 100 + 1)) + rows.flush()
    chunks = ((b"IHDR", head), (b"IDAT", data), (b"IEND", b""))
    body = b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def resized(kind: str, change: Callable[[bytearray], None]) -> bytes:
    """A small file of a format whose header claims more."""
    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, kind)
    data = bytearray(file.getvalue())
    change(data)
    return bytes(data)


def jpeg(data: bytearray) -> None:
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", HIGH, WIDE)


def gif_screen(data: bytearray) -> None:
    data[6:10] = struct.pack("<HH", WIDE, HIGH)


def gif_frame(data: bytearray) -> None:
    """Only the frame is large, not the screen that it lies on."""
    frame = data.rindex(b"\x2c\x00\x00\x00\x00\x08\x00\x08\x00")
    data[frame + 5 : frame + 9] = struct.pack("<HH", WIDE, HIGH)


def bmp(data: bytearray) -> None:
    data[18:26] = struct.pack("<ii", WIDE, HIGH)


def webp() -> bytes:
    canvas = (WIDE - 1).to_bytes(3, "little") + (HIGH - 1).to_bytes(3, "little")
    extended = b"VP8X" + struct.pack("<I", 10) + bytes(4) + canvas
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "WEBP")
    chunks = extended + file.getvalue()[12:]
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks


BOMBS: dict[str, Callable[[], bytes]] = {
    "png": png,
    "jpeg": lambda: resized("JPEG", jpeg),
    "gif screen": lambda: resized("GIF", gif_screen),
    "gif frame": lambda: resized("GIF", gif_frame),
    "bmp": lambda: resized("BMP", bmp),
}


@pytest.fixture(scope="module")
def roomy(models: Path) -> Iterator[Service]:
    with Service(models) as service:
        yield service.wait()


@pytest.mark.parametrize("kind", BOMBS)
def test_images_that_would_be_huge_are_refused_by_their_header(roomy: Service, kind: str) -> None:
    reply = roomy.client.post("/predict", content=BOMBS[kind]())
    assert (reply.status_code, reply.json()["code"]) == (413, "image_too_large"), reply.text


def test_a_canvas_that_does_not_fit_its_image_is_refused(roomy: Service) -> None:
    reply = roomy.client.post("/predict", content=webp())
    assert reply.status_code in (400, 413), reply.text
    assert reply.json()["code"] in ("image_too_large", "broken_image", "not_an_image")


def test_bodies_that_expand_without_end_are_refused(roomy: Service) -> None:
    bomb = zlib.compressobj(9, zlib.DEFLATED, 31)
    body = b"".join(bomb.compress(bytes(2**20)) for _ in range(30)) + bomb.flush()
    assert len(body) < 40_000
    reply = roomy.client.post(TINY_TEXT, content=body, headers={"content-encoding": "gzip"})
    assert reply.status_code == 413
    plain = roomy.client.post("/predict", content=body, headers={"content-encoding": "gzip"})
    assert (plain.status_code, plain.json()["code"]) == (415, "bad_encoding")


@pytest.mark.parametrize("path", ["/predict", TINY_TEXT])
@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_json_that_is_deep_everywhere_is_refused(roomy: Service, path: str, opening: str) -> None:
    body = '{"inputs":' + opening * 300_000
    reply = roomy.client.post(path, content=body, headers={"content-type": "application/json"})
    assert reply.status_code in (400, 413)
    assert "deep" in reply.json()["error"] or "JSON" in reply.json()["error"]


def test_a_body_that_drips_is_given_up_before_its_time_is_over(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.middleware.GRACE_SECONDS", 0.2)
    with (
        Service(models, body_timeout_seconds=3600, min_body_rate=1000) as service,
        socket.create_connection(("127.0.0.1", service.wait().port), timeout=60) as connection,
    ):
        connection.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n")
        connection.setblocking(False)
        received = b""
        for _ in range(900):
            try:
                connection.sendall(b"x")
                time.sleep(0.01)
                received += connection.recv(65536)
            except BlockingIOError:
                continue
            except ConnectionError:
                break
            if b"}" in received:
                break
        assert b" 408 " in received
        assert json.loads(received.partition(b"\r\n\r\n")[2])["code"] == "body_timeout"


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "file:///etc/passwd", "tiny-text/../tiny-image", "."]
)
def test_names_of_models_are_only_compared(roomy: Service, name: str) -> None:
    client = roomy.client
    reply = client.post("/predict", params={"model": name}, content=b"ball")
    assert (reply.status_code, reply.json()["code"]) == (404, "unknown_model")
    assert client.get("/v2/models/" + name.replace("/", "%2F")).status_code == 404
    assert client.get("/page/" + name.replace("/", "%2F")).status_code == 404


@pytest.mark.parametrize("package", ["server", "runtime"])
def test_nothing_is_ever_unpickled(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {"pickle", "marshal", "shelve", "dill", "joblib"} & {name.split(".")[0] for name in names}, path
