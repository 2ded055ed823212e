"""`/v2`: the Open Inference Protocol, REST, as tritonclient and KServe speak it. Translates only.

curl 127.0.0.1:8000/v2/models/newsgroups/infer -d '{"inputs": [
    {"name": "input", "datatype": "BYTES", "shape": [1], "data": ["The goalkeeper saved two penalties."]}]}'
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, Never

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from runtime.predictor import Wish
from server.compression import MIN_REPLY_BYTES, Coding, accepted_coding, compress, decompress
from server.core import Core
from server.decode import INLINE_BYTES, Decoder, Params, Result
from server.errors import Forbidden, NotReady, UnknownModel
from server.models import ServedModel
from server.oip.codec import refuse, shown
from server.oip.describe import model_config, model_metadata, server_metadata
from server.oip.reply import choose_outputs, write_reply
from server.oip.request import PROTOCOL_PARAMETERS, InferRequest, WantedOutput, read_request
from server.oip.schema import (
    INFER_BODY,
    PATH_PARAMETERS,
    InferReply,
    LiveReply,
    ModelReadyReply,
    OpenErrorReply,
    OpenModelReply,
    ReadyReply,
    ServerReply,
    StatisticsReply,
)
from server.oip.statistics import Statistics
from server.predict_api import parameters_of, read_values, server_timing
from server.settings import Settings
from server.work import Answer, ModelCard, Work

HEADER_LENGTH = "inference-header-content-length"
WISHES = ("heads", "min_confidence", "target_accuracy")
"""Parameters of a request besides the protocol's own."""
INLINE_NUMBERS = 1024
"""Replies of at most so many rows times classes are written on the event loop, as requests of INLINE_BYTES are read."""
ERRORS = {
    400: "The request is malformed or asks for what does not exist.",
    401: "This server wants a key.",
    404: "There is no such model, or not in this version.",
    408: "The body did not arrive in time.",
    413: "Too many bytes, values, inputs, pixels or characters.",
    415: "The data is no image, or the body has a Content-Encoding that is not read.",
    429: "Too much waits to answer in time; see Retry-After.",
    500: "The engine failed.",
    503: "The models are still loading, or the server is shutting down.",
    504: "The answer was not there within the timeout.",
}
ADMIN_ONLY = (
    "/v2/repository/index",
    "/v2/repository/models/{name}/load",
    "/v2/repository/models/{name}/unload",
)


def add_oip_api(app: FastAPI, core: Core, decoder: Decoder, settings: Settings) -> None:
    """Add the routes to `app`."""
    api = _OpenInference(core, decoder, settings)
    _add(app, "/v2", api.server, ServerReply, "server", "Describe the server")
    _add(app, "/v2/health/live", api.live, LiveReply, "live", "Is the process alive?")
    _add(app, "/v2/health/ready", api.ready, ReadyReply, "ready", "Are all models warm?", 503)
    _add(app, "/v2/models/stats", api.all_statistics, StatisticsReply, "statistics", "What the models have done", 503)
    for model, which in (("/v2/models/{name}", "model"), ("/v2/models/{name}/versions/{version}", "version")):
        _add(app, model, api.model, OpenModelReply, which, "Describe a model", 404, 503)
        _add(app, f"{model}/ready", api.model_ready, ModelReadyReply, f"{which}_ready", "Is a model warm?", 404, 503)
        _add(
            app, f"{model}/config", api.config, dict[str, Any], f"{which}_config", "Configuration of a model", 404, 503
        )
        _add(
            app, f"{model}/stats", api.model_statistics, StatisticsReply, f"{which}_stats", "What it has done", 404, 503
        )
        _add(app, f"{model}/infer", api.infer, InferReply, f"{which}_infer", "Predict rows", *ERRORS)
    for path in ADMIN_ONLY:
        app.add_api_route(path, refuse_administration, methods=["POST"], include_in_schema=False, response_model=None)


def _add(
    app: FastAPI, path: str, endpoint: Callable[..., Any], reply: Any, operation: str, summary: str, *errors: int
) -> None:
    """Add one route and describe it; predictions are posted, everything else is asked for."""
    infers = path.endswith("/infer")
    extra: dict[str, Any] = {"parameters": [PATH_PARAMETERS[name] for name in PATH_PARAMETERS if f"{{{name}}}" in path]}
    if infers:
        extra["requestBody"] = INFER_BODY
    app.add_api_route(
        path,
        endpoint,
        methods=["POST" if infers else "GET"],
        operation_id=f"open_inference_{operation}",
        tags=["Open Inference Protocol"],
        summary=summary,
        response_model=reply,
        responses={status: {"model": OpenErrorReply, "description": ERRORS[status]} for status in errors},
        openapi_extra=extra,
    )


async def refuse_administration(request: Request) -> Never:
    """Refuse what only the admin port does."""
    raise Forbidden(
        "admin_only",
        f"{request.url.path[:200]} is answered on the admin port only; this port serves predictions.",
    )


class _OpenInference:
    """The routes."""

    def __init__(self, core: Core, decoder: Decoder, settings: Settings) -> None:
        self._core = core
        self._decoder = decoder
        self._settings = settings
        self._statistics = Statistics()

    async def server(self) -> JSONResponse:
        """Describe the server."""
        return JSONResponse(server_metadata())

    async def live(self) -> JSONResponse:
        """Answer as long as the process runs."""
        return JSONResponse({"live": True})

    async def ready(self) -> JSONResponse:
        """Answer 200 when all models are warm, else 503."""
        reason = self._core.ready()
        if reason is not None:
            raise NotReady("not_ready", reason, {"retry-after": "1"})
        return JSONResponse({"ready": True})

    async def model_ready(self, request: Request) -> JSONResponse:
        """Answer 200 when this model, in this version, is warm."""
        return JSONResponse({"name": self._card(request).manifest.name, "ready": True})

    async def model(self, request: Request) -> JSONResponse:
        """Describe a model."""
        return JSONResponse(model_metadata(self._card(request)))

    async def config(self, request: Request) -> JSONResponse:
        """Give the configuration of a model."""
        return JSONResponse(model_config(self._card(request)))

    async def all_statistics(self) -> JSONResponse:
        """Give the statistics of all models."""
        return JSONResponse(self._statistics.reply(self._core.describe()))

    async def model_statistics(self, request: Request) -> JSONResponse:
        """Give the statistics of one model."""
        return JSONResponse(self._statistics.reply((self._card(request),)))

    async def infer(self, request: Request) -> Response:
        """Predict the rows of a request."""
        card = self._card(request)
        arrived = time.perf_counter()
        try:
            with self._core.pinned(card.manifest.name) as model:
                return await self._infer(request, model)
        except Exception:
            self._statistics.failed(card, time.perf_counter() - arrived)
            raise

    async def _infer(self, request: Request, model: ServedModel) -> Response:
        card = model.card
        arrived: float = request.state.arrived
        longest = self._core.longest_timeout_seconds
        self._core.admit_headers(card.manifest.name, self._core.deadline(arrived, longest))  # the body may name any
        body = await request.body()
        started = time.perf_counter()
        encoding = request.headers.get("content-encoding", "")
        off_loop = bool(encoding) or len(body) > INLINE_BYTES
        wanted = await self._call(
            off_loop, _read, body, encoding, request.headers.get(HEADER_LENGTH), card, self._settings
        )
        if wanted.timeout_seconds is not None and wanted.timeout_seconds > longest:
            refuse(
                "bad_timeout",
                f"timeout must be at most {1e6 * longest:.0f} microseconds, not {1e6 * wanted.timeout_seconds:.0f}.",
            )
        wish = _wish(wanted)
        sheds = wish.heads is None and card.min_heads < len(card.manifest.heads)
        exits = wish.min_confidence is not None or wish.target_accuracy is not None
        outputs = choose_outputs(wanted, heads_vary=exits or sheds)
        work = Work(
            id=request.state.id,
            inputs=wanted.inputs,
            model=card.manifest.name,
            wish=wish,
            started=started,
            deadline=self._core.deadline(arrived, wanted.timeout_seconds),
        )
        answer = await self._core.predict(work, model)
        request.state.answer = answer  # for the log

        began = time.perf_counter()
        numbers = len(answer.predictions) * len(answer.card.manifest.labels)
        coding = accepted_coding(request.headers.get("accept-encoding", ""))
        identity = request.state.id if wanted.id is None else wanted.id
        response = await self._call(numbers > INLINE_NUMBERS, _respond, answer, identity, outputs, coding)
        response.headers["server-timing"] = server_timing(answer)
        self._statistics.answered(answer, time.perf_counter() - began)
        return response

    def _card(self, request: Request) -> ModelCard:
        """The model, and the version if there is one, that the path names. Raises UnknownModel or NotReady."""
        cards = self._core.describe()
        name, version = request.path_params["name"], request.path_params.get("version")
        for card in cards:
            if card.manifest.name == name:
                if version not in (None, card.manifest.version):
                    raise UnknownModel(
                        "unknown_version",
                        f"Model {name!r} has no version {version[:100]!r}; it is served in version "
                        f"{card.manifest.version!r}.",
                    )
                return card
        names = ", ".join(card.manifest.name for card in cards)
        raise UnknownModel("unknown_model", f"There is no model {name[:100]!r}; the models are: {names}.")

    async def _call(
        self, off_loop: bool, function: Callable[Params, Result], *args: Params.args, **kwargs: Params.kwargs
    ) -> Result:
        """Call a function, in a thread if it is much work."""
        if off_loop:
            return await self._decoder.run(function, *args, **kwargs)
        return function(*args, **kwargs)


def _read(body: bytes, encoding: str, header_length: str | None, card: ModelCard, settings: Settings) -> InferRequest:
    plain = decompress(body, encoding, settings.max_body_bytes)
    return read_request(plain, header_length, card.manifest, settings)


def _wish(request: InferRequest) -> Wish:
    for name in request.wishes:
        if name not in WISHES:
            known = ", ".join((*WISHES, *PROTOCOL_PARAMETERS))
            refuse("unknown_parameter", f"There is no parameter {shown(name)} of a request; there are: {known}.")
    return parameters_of(read_values(request.wishes.items())).wish


def _respond(answer: Answer, identity: str, outputs: Sequence[WantedOutput], coding: Coding | None) -> Response:
    body, json_length = write_reply(answer, identity, outputs)
    headers = {"vary": "accept-encoding"}
    if json_length is not None:
        headers[HEADER_LENGTH] = str(json_length)
    if coding is not None and len(body) >= MIN_REPLY_BYTES:
        headers["content-encoding"] = coding
        body = compress(body, coding)
    media_type = "application/json" if json_length is None else "application/octet-stream"
    return Response(body, headers=headers, media_type=media_type)
