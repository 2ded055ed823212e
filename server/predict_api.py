"""`/predict` and `/models`: translates HTTP to `Work` and `Answer` to JSON, nothing else.

curl -F file=@shirt.png '127.0.0.1:8000/predict?heads=2&top_k=3'
"""

import time
from collections.abc import Callable, Mapping
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
    404: {"model": ErrorReply, "description": "There is no such model."},
    408: {"model": ErrorReply, "description": "The body did not arrive in time."},
    413: {"model": ErrorReply, "description": "Too many bytes, inputs, pixels or characters."},
    415: {"model": ErrorReply, "description": "Neither an image, nor JSON with inputs, nor UTF-8 text."},
    500: {"model": ErrorReply, "description": "The engine failed."},
    503: {"model": ErrorReply, "description": "The models are still loading, or the server is shutting down."},
}


@dataclass(frozen=True)
class Parameters:
    """The checked parameters of a request."""

    model: str | None
    wish: Wish
    top_k: int


def add_predict_api(app: FastAPI, core: Core, decoder: Decoder) -> None:
    """Add the routes to `app`."""

    async def predict(request: Request) -> JSONResponse:
        """Predict one or more images, or one or more texts."""
        encoding = request.headers.get("content-encoding", "identity")
        if encoding.lower() != "identity":
            raise Unsupported("bad_encoding", f"Content-Encoding {encoding[:100]!r} is not supported; send it plain.")
        data = await request.body()
        started = time.perf_counter()
        body = await decoder.read(request.headers.get("content-type", ""), data)
        parameters = read_parameters(request.query_params.multi_items(), body.fields)
        work = Work(
            id=request.state.id,
            inputs=body.inputs,
            model=parameters.model,
            wish=parameters.wish,
            started=started,
        )
        return JSONResponse(answer_reply(await core.predict(work), parameters.top_k))

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


def read_parameters(query: list[tuple[str, str]], fields: Mapping[str, Scalar]) -> Parameters:
    """Check the parameters in the query and beside the inputs. Raises InvalidRequest naming the wrong one."""
    given: dict[str, Scalar] = {}
    for name, value in [*query, *fields.items()]:
        if name not in _READERS:
            raise InvalidRequest(
                "unknown_parameter", f"There is no parameter {name[:100]!r}; there are: {', '.join(_READERS)}."
            )
        if name in given:
            raise InvalidRequest("bad_parameter", f"{name} is given more than once.")
        if value is not None:
            given[name] = value
    values = {name: _READERS[name](name, value) for name, value in given.items()}
    return Parameters(
        model=values.get("model"),
        wish=Wish(heads=values.get("heads"), min_confidence=values.get("min_confidence")),
        top_k=values.get("top_k", 1),
    )


def answer_reply(answer: Answer, top_k: int) -> dict[str, Any]:
    """Build the reply of /predict; see `PredictReply`."""
    manifest = answer.card.manifest
    timing = answer.timing
    return {
        "id": answer.id,
        "model": manifest.name,
        "version": manifest.version,
        "engine": answer.card.engine.name,
        "precision": manifest.precision,
        "vote": manifest.vote,
        "predictions": [prediction_reply(row, manifest.labels, top_k) for row in answer.predictions],
        "timing_ms": {
            "decode": _milliseconds(timing.decode_seconds),
            "queue": _milliseconds(timing.queue_seconds),
            "compute": _milliseconds(timing.compute_seconds),
            "total": _milliseconds(timing.total_seconds),
        },
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
        "vote": manifest.vote,
        "precision": manifest.precision,
        "density": _rounded(manifest.sparsity.density),
        "nonzero": manifest.sparsity.nonzero,
        "dense_macs": sum(stage.dense_macs for stage in manifest.stages),
        "effective_macs": sum(stage.effective_macs for stage in manifest.stages),
        "evaluation": [metrics.model_dump(mode="json") for metrics in manifest.evaluation],
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
    "top_k": _top_k,
}


def _rounded(value: float) -> float:
    """Six significant digits: more than a float32 network can mean, and short to read."""
    return float(f"{value:.6g}")


def _milliseconds(seconds: float) -> float:
    return round(1000 * seconds, 3)
