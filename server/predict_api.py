"""`/predict` and `/models`: translates HTTP to `Work` and `Answer` to JSON, nothing else.

curl -F file=@shirt.png '127.0.0.1:8000/predict?heads=2&top_k=3'
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from runtime.predictor import Prediction, Wish
from server.core import Core
from server.decode import Decoder, Scalar
from server.errors import InvalidRequest, Unsupported
from server.schema import MAX_TOP_K, PARAMETERS, REQUEST_BODY, ErrorReply, ModelsReply, PredictReply
from server.work import Answer, ModelCard, Work

ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorReply, "description": "The request is malformed or asks for what does not exist."},
    401: {"model": ErrorReply, "description": "This server wants a key."},
    404: {"model": ErrorReply, "description": "There is no such model."},
    408: {"model": ErrorReply, "description": "The body did not arrive in time."},
    413: {"model": ErrorReply, "description": "Too many bytes, inputs, pixels or characters."},
    415: {"model": ErrorReply, "description": "Neither an image, nor JSON with inputs, nor UTF-8 text."},
    429: {"model": ErrorReply, "description": "Too much waits to answer in time; ask again after `retry_after_ms`."},
    500: {"model": ErrorReply, "description": "The engine failed."},
    503: {"model": ErrorReply, "description": "The models are still loading, or the server is shutting down."},
    504: {"model": ErrorReply, "description": "The answer was not there within the timeout."},
}


@dataclass(frozen=True)
class Parameters:
    """The checked parameters of a request."""

    model: str | None
    wish: Wish
    timeout_seconds: float | None
    top_k: int


def add_predict_api(app: FastAPI, core: Core, decoder: Decoder) -> None:
    """Add the routes to `app`."""

    async def predict(request: Request) -> JSONResponse:
        """Predict one or more images, or one or more texts."""
        encoding = request.headers.get("content-encoding", "identity")
        if encoding.lower() != "identity":
            raise Unsupported("bad_encoding", f"Content-Encoding {encoding[:100]!r} is not supported; send it plain.")
        query = read_values(request.query_params.multi_items())
        arrived: float = request.state.arrived
        content_type = request.headers.get("content-type", "")
        parameters = parameters_of(query)
        timeout_seconds = parameters.timeout_seconds
        if timeout_seconds is None and not content_type.startswith("image/"):
            timeout_seconds = core.longest_timeout_seconds  # the body may name any
        core.admit_headers(parameters.model, core.deadline(arrived, timeout_seconds))

        data = await request.body()
        started = time.perf_counter()
        body = await decoder.read(content_type, data)
        if body.fields:
            parameters = parameters_of(read_values(body.fields.items(), query))
        work = Work(
            id=request.state.id,
            inputs=body.inputs,
            model=parameters.model,
            wish=parameters.wish,
            started=started,
            deadline=core.deadline(arrived, parameters.timeout_seconds),
        )
        answer = await core.predict(work)
        request.state.answer = answer  # for the log
        return JSONResponse(answer_reply(answer, parameters.top_k), headers={"server-timing": server_timing(answer)})

    async def models(_: Request) -> JSONResponse:
        """List the served models."""
        return JSONResponse({"models": [model_reply(card) for card in core.describe()]})

    for method in ("POST", "PUT"):
        app.add_api_route(
            "/predict",
            predict,
            methods=[method],
            operation_id=f"predict_{method.lower()}",
            summary="Predict images or texts",
            response_model=PredictReply,
            responses=ERRORS,
            openapi_extra={"parameters": PARAMETERS, "requestBody": REQUEST_BODY},
        )
    app.add_api_route(
        "/models",
        models,
        methods=["GET"],
        operation_id="models",
        summary="List the served models",
        response_model=ModelsReply,
        responses={503: ERRORS[503]},
    )


def read_values(given: Iterable[tuple[str, Scalar]], before: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Check parameters by name, and add them to those that were read `before`. Raises InvalidRequest naming the wrong.

    A parameter may be given once: in the query, or beside the inputs. None stands for the default.
    """
    values = dict(before or {})
    seen = set(values)
    for name, value in given:
        if name not in _READERS:
            raise InvalidRequest(
                "unknown_parameter", f"There is no parameter {name[:100]!r}; there are: {', '.join(_READERS)}."
            )
        if name in seen:
            raise InvalidRequest("bad_parameter", f"{name} is given more than once.")
        seen.add(name)
        if value is not None:
            values[name] = _READERS[name](name, value)
    return values


def parameters_of(values: Mapping[str, Any]) -> Parameters:
    """Put checked values and defaults together."""
    timeout_ms = values.get("timeout_ms")
    return Parameters(
        model=values.get("model"),
        wish=Wish(
            heads=values.get("heads"),
            min_confidence=values.get("min_confidence"),
            target_accuracy=values.get("target_accuracy"),
        ),
        timeout_seconds=None if timeout_ms is None else timeout_ms / 1000,
        top_k=values.get("top_k", 1),
    )


def server_timing(answer: Answer) -> str:
    """Return the value of the header Server-Timing: the stages of the request, in milliseconds."""
    return ", ".join(f"{stage};dur={milliseconds}" for stage, milliseconds in _timing_ms(answer).items())


def answer_reply(answer: Answer, top_k: int) -> dict[str, Any]:
    """Build the reply of /predict; see `PredictReply`."""
    manifest = answer.card.manifest
    return {
        "id": answer.id,
        "model": manifest.name,
        "version": manifest.version,
        "engine": answer.card.engine.name,
        "precision": answer.card.engine.precision,
        "vote": manifest.vote,
        "predictions": [prediction_reply(row, manifest.labels, top_k) for row in answer.predictions],
        "timing_ms": _timing_ms(answer),
    }


def _timing_ms(answer: Answer) -> dict[str, float]:
    timing = answer.timing
    return {
        "decode": _milliseconds(timing.decode_seconds),
        "queue": _milliseconds(timing.queue_seconds),
        "compute": _milliseconds(timing.compute_seconds),
        "total": _milliseconds(timing.total_seconds),
    }


def prediction_reply(prediction: Prediction, labels: tuple[str, ...], top_k: int) -> dict[str, Any]:
    """Build one element of `predictions`; see `PredictionReply`."""
    ranked = [
        {"label": labels[index], "index": index, "probability": _rounded(prediction.probabilities[index])}
        for index in prediction.top(top_k)
    ]
    heads = []
    for head, probabilities in enumerate(prediction.head_probabilities):
        index = int(probabilities.argmax())
        heads.append({"head": head, "label": labels[index], "probability": _rounded(probabilities[index])})
    return {
        **ranked[0],
        "top_k": ranked,
        "heads_used": prediction.heads_used,
        "heads_total": prediction.heads_total,
        "stopped_by": prediction.stopped_by,
        "disagreement": None if prediction.disagreement is None else _rounded(prediction.disagreement),
        "heads": heads,
    }


def model_reply(card: ModelCard) -> dict[str, Any]:
    """Build one element of /models; see `ModelReply`."""
    manifest, engine = card.manifest, card.engine
    return {
        "name": manifest.name,
        "version": manifest.version,
        "modality": manifest.modality,
        "default": card.is_default,
        "description": manifest.description,
        "labels": list(manifest.labels),
        "heads": len(manifest.heads),
        "min_heads": card.min_heads,
        "vote": manifest.vote,
        "precision": engine.precision,
        "density": _rounded(manifest.sparsity.density),
        "nonzero": manifest.sparsity.nonzero,
        "dense_macs": sum(stage.dense_macs for stage in manifest.stages),
        "effective_macs": sum(stage.effective_macs for stage in manifest.stages),
        "evaluation": [metrics.model_dump(mode="json") for metrics in manifest.evaluation],
        "early_exit": manifest.early_exit.model_dump(mode="json"),
        "engine": engine.name,
        "engine_version": engine.version,
        "cores": engine.cores,
        "notes": list(engine.notes),
    }


def _text(name: str, value: Scalar) -> str:
    if not isinstance(value, str):
        raise InvalidRequest("bad_parameter", f"{name} must be a string, not {value!r}.")
    return value


def _whole(name: str, value: Scalar) -> int:
    number = _number(name, value, "a whole number of at least 1", int)
    if number < 1:
        raise InvalidRequest(f"bad_{name}", f"{name} must be a whole number of at least 1, not {number}.")
    return int(number)


def _top_k(name: str, value: Scalar) -> int:
    count = _whole(name, value)
    if count > MAX_TOP_K:
        raise InvalidRequest("bad_top_k", f"top_k must be at most {MAX_TOP_K}, not {count}.")
    return count


def _fraction(name: str, value: Scalar) -> float:
    number = _number(name, value, "a number from 0 to 1", float)
    if not 0 <= number <= 1:  # NaN too
        raise InvalidRequest(f"bad_{name}", f"{name} must be a number from 0 to 1, not {number}.")
    return number


def _positive(name: str, value: Scalar) -> float:
    number = _number(name, value, "a number of more than 0", float)
    if not 0 < number < math.inf:  # NaN too
        raise InvalidRequest(f"bad_{name}", f"{name} must be a number of more than 0, not {number}.")
    return number


def _number(name: str, value: Scalar, wanted: str, convert: Callable[[str], float]) -> float:
    """Read a number that came as JSON or as text; true, 2.5 or "two" are no whole numbers."""
    try:
        if isinstance(value, str):
            return convert(value)
        if isinstance(value, int | float) and not isinstance(value, bool) and convert(str(value)) == value:
            return value
    except (ValueError, OverflowError):
        pass
    raise InvalidRequest(f"bad_{name}", f"{name} must be {wanted}, not {str(value)[:100]!r}.")


_READERS: dict[str, Callable[[str, Scalar], Any]] = {
    "model": _text,
    "heads": _whole,
    "min_confidence": _fraction,
    "target_accuracy": _fraction,
    "timeout_ms": _positive,
    "top_k": _top_k,
}


def _rounded(value: float) -> float:
    """Six significant digits: more than a float32 network can mean, and short to read."""
    return float(f"{value:.6g}")


def _milliseconds(seconds: float) -> float:
    return round(1000 * seconds, 3)
