"""Assembles the service: routes, probes, metrics, pages; `serve` runs it.

neurotrails serve --models models --port 8000
"""

import contextlib
import inspect
import logging
from collections.abc import AsyncIterator, Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

from server.admin_api import create_admin_app
from server.admin_port import admin_keys, listening
from server.config import flag_parameters, load_settings
from server.core import Core
from server.decode import Decoder
from server.errors import NotReady, StartupError
from server.keys import collect_keys
from server.logs import configure_logging
from server.metrics import PrometheusObserver
from server.middleware import RequestEnvelope
from server.oip_api import add_oip_api
from server.page_api import add_page
from server.predict_api import ERRORS, add_predict_api
from server.process import Process, http_config
from server.routing import answer_router_errors
from server.schema import StatusReply
from server.settings import Settings

logger = logging.getLogger("neurotrails")

DESCRIPTION = "Serves sparse multi-head networks: an ensemble inside one network, whose heads vote."
PAGE = Path(__file__).parent / "page"
PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
}


def create_app(settings: Settings, on_failure: Callable[[StartupError], None] = lambda _: None) -> FastAPI:
    """Return the application. Its lifespan checks and loads the models in the background, and drains at the end.

    A model that cannot be served at the start, or an admin port that is taken, is logged and reported to `on_failure`.
    Raises StartupError for keys that cannot be used.
    """
    keys = collect_keys(settings.api_keys, settings.api_keys_file)
    observer = PrometheusObserver()
    decoder = Decoder(settings)
    core = Core(settings, decoder, observer)
    administrators = admin_keys(settings)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        core.start(on_failure)
        async with contextlib.AsyncExitStack() as stack:
            if administrators is not None and settings.admin_port is not None:
                admin = http_config(create_admin_app(core, settings, observer, administrators), settings)
                try:
                    port = await stack.enter_async_context(listening(admin, settings.admin_host, settings.admin_port))
                    app.state.admin_port = port
                except StartupError as error:
                    logger.error("%s", error)
                    on_failure(error)
            yield
        await core.drain()

    app = FastAPI(
        title="NeuroTrails Serve",
        description=DESCRIPTION,
        version=version("neurotrails"),
        lifespan=lifespan,
        docs_url=None,  # FastAPI's own pages need the network
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.core = core
    app.state.admin_port = None
    app.add_middleware(RequestEnvelope, settings=settings, observer=observer, keys=keys)
    answer_router_errors(app, "/docs lists what there is")
    add_predict_api(app, core, decoder)
    add_oip_api(app, core, decoder, settings)
    add_page(app, core, settings)
    _add_operation(app, core, observer)
    return app


def serve(*, config: Path | None = None, print_config: bool = False, **flags: Any) -> None:
    """Serve all artifacts in a folder over HTTP until SIGTERM or Ctrl-C.

    What no flag says comes from environment variables (NEUROTRAILS_MODELS, ...), then from the file, then from the
    defaults.

    Args:
        config: YAML file with settings. Default: what NEUROTRAILS_CONFIG names, if anything
        print_config: Print all settings as YAML, with where each came from, and exit

    Raises:
        StartupError: The settings are wrong, or a model cannot be served.
    """
    configured = load_settings({name: value for name, value in flags.items() if value is not None}, config)
    if print_config:
        print(configured.as_yaml(), end="")
        return
    configure_logging(configured.settings.log_format)
    run(configured.settings)


# The flags are made from the settings, so that each setting has one and all have one description.
serve.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [*list(inspect.signature(serve).parameters.values())[:2], *flag_parameters()]
)


def run(settings: Settings) -> None:
    """Run the service in this process until SIGTERM or Ctrl-C, then finish open requests; see `server.process`.

    Raises StartupError.
    """
    failures: list[StartupError] = []

    def stop(error: StartupError) -> None:
        failures.append(error)
        process.should_exit = True

    app = create_app(settings, stop)
    process = Process(http_config(app, settings), settings, app.state.core)
    process.run()
    if failures:
        raise failures[0]


def _add_operation(app: FastAPI, core: Core, observer: PrometheusObserver) -> None:
    """Add probes, metrics and the documentation page."""
    documentation = (PAGE / "docs.html").read_text(encoding="utf-8")

    async def healthz() -> JSONResponse:
        """Answer 200 as long as the process runs."""
        return JSONResponse({"status": "alive"})

    async def readyz() -> JSONResponse:
        """Answer 200 when all models are warm, else 503."""
        reason = core.ready()
        if reason is not None:
            raise NotReady("not_ready", reason, {"retry-after": "1"})
        return JSONResponse({"status": "ready"})

    async def metrics() -> Response:
        """Metrics in the text format of Prometheus, times in seconds."""
        return Response(observer.render(ready=core.ready() is None), media_type=observer.content_type)

    async def docs() -> HTMLResponse:
        return HTMLResponse(documentation, headers=PAGE_HEADERS)

    route = app.add_api_route
    route("/healthz", healthz, operation_id="healthz", summary="Is the process alive?", response_model=StatusReply)
    route(
        "/readyz",
        readyz,
        operation_id="readyz",
        summary="Are all models warm?",
        response_model=StatusReply,
        responses={503: ERRORS[503]},
    )
    route(
        "/metrics",
        metrics,
        operation_id="metrics",
        summary="Metrics for Prometheus",
        response_class=PlainTextResponse,
    )
    route("/docs", docs, include_in_schema=False)
