"""The process of the service: how it listens, what signals do to it, and with which status it ends.

SIGTERM: not ready at once, so that load balancers look elsewhere; after `drain_delay_seconds` no new connection, what
was admitted is finished, status 0. SIGINT (Ctrl-C) is the same without the delay. A second signal ends the process at
once. So does the end of `shutdown_timeout_seconds`, with status 1: not everything was answered.
"""

import asyncio
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn

from server.core import Core
from server.protocol import BoundedProtocol
from server.settings import Settings

logger = logging.getLogger("neurotrails")

MARGIN_SECONDS = 2.0
"""Beyond the shutdown timeout, for uvicorn to cancel what is left and for the engines to be released."""


def http_config(app: Callable[..., Any], settings: Settings) -> uvicorn.Config:
    """How uvicorn serves an application."""
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=BoundedProtocol.of(settings),
        log_config=None,  # one format for all, set by `serve`
        access_log=False,  # the middleware logs requests
        server_header=False,
        proxy_headers=False,  # nothing depends on who the client says it is
        ws="none",
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=settings.shutdown_timeout_seconds,
    )


class Process(uvicorn.Server):
    """Serves until told to stop. `run` returns when everything has ended; the process then exits with 0."""

    def __init__(self, config: uvicorn.Config, settings: Settings, core: Core) -> None:
        super().__init__(config)
        self._settings = settings
        self._core = core
        self._told = False
        self._loop: asyncio.AbstractEventLoop

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve on the running event loop."""
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Take a signal, between any two steps of the main thread: nothing here may wait for a lock."""
        if self._told:
            os.write(2, b"Ended at once by a second signal; open requests were not answered.\n")
            os._exit(128 + sig)
        self._told = True
        self._loop.call_soon_threadsafe(self._stop, sig)

    def _stop(self, sig: int) -> None:
        """Stop in order."""
        delay = self._settings.drain_delay_seconds if sig == signal.SIGTERM and self._core.ready() is None else 0.0
        self._core.leave()
        limit = delay + self._settings.shutdown_timeout_seconds + MARGIN_SECONDS
        watch = threading.Timer(limit, self._give_up)  # a thread: it must work when the event loop does not
        watch.daemon = True
        watch.start()
        logger.info("Told to stop: not ready any more, and accepting requests for another %g seconds.", delay)
        self._loop.call_later(delay, self._stop_accepting)

    def _stop_accepting(self) -> None:
        self.should_exit = True

    def _give_up(self) -> None:
        seconds = self._settings.shutdown_timeout_seconds
        logger.error("Not everything has ended within %d seconds; giving it up.", seconds)
        os._exit(1)
