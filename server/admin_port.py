"""The port of the admin API: off unless there is a port and a key for it; listens beside the port for predictions."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn

from server.errors import StartupError
from server.keys import Keys, collect_keys
from server.settings import Settings

logger = logging.getLogger("neurotrails")


def admin_keys(settings: Settings) -> Keys | None:
    """Return the keys of the admin API; None where it is off. Raises StartupError for a key that cannot be used."""
    if settings.admin_port is None:
        return None
    keys = collect_keys([] if settings.admin_key is None else [settings.admin_key], settings.admin_key_file)
    if keys:
        return keys
    logger.warning("The admin API is off: admin_port is set, but neither admin_key nor admin_key_file is.")
    return None


@asynccontextmanager
async def listening(config: uvicorn.Config, host: str, port: int) -> AsyncIterator[int]:
    """Serve what `config` says until the end of the block; yields the port. Raises StartupError if it is not free."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        raise StartupError(f"The admin API cannot listen on {host}, port {port}: {error.strerror}.") from error
    server = _Beside(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    port = listener.getsockname()[1]
    logger.info("The admin API listens on http://%s:%d", f"[{host}]" if ":" in host else host, port)
    try:
        yield port
    finally:
        server.should_exit = True
        await serving


class _Beside(uvicorn.Server):
    """A server beside the one that signals are for."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the other one."""
        yield
