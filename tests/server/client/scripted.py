"""A server that says exactly what a test wants, as the real one never does: breaks off, redirects, talks nonsense."""

import contextlib
import socket
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Self

READY = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


def reply(status: int, body: bytes, *headers: str) -> bytes:
    """Return a whole HTTP reply."""
    head = [f"HTTP/1.1 {status} X", f"content-length: {len(body)}", *headers]
    return "\r\n".join([*head, "", ""]).encode() + body


class Scripted:
    """Accepts one connection after another; to each request on it the next bytes of its script; then closes it."""

    def __init__(self, *connections: Sequence[bytes]) -> None:
        self._scripts = connections
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.requests: list[tuple[str, dict[str, str]]] = []
        """Request line and headers of each request."""
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # ends the wait for a client that never comes
        self._thread.join()
        self._listening.close()

    def _run(self) -> None:
        for script in self._scripts:
            try:
                connection, _ = self._listening.accept()
            except OSError:  # the test is over
                return
            with connection, connection.makefile("rb") as stream:
                for said in script:
                    if not (line := stream.readline().decode().strip()):
                        break
                    headers = {}
                    while header := stream.readline().decode().strip():
                        name, _, value = header.partition(": ")
                        headers[name.lower()] = value
                    stream.read(int(headers.get("content-length", 0)))
                    self.requests.append((line, headers))
                    connection.sendall(said)
