"""What the client returns. Fields are those of the server's JSON, where `/docs` on a running server explains them.

Fields that a newer server adds are ignored; a field that is missing, or of another type, is an UnexpectedReply.
"""

from dataclasses import dataclass
from email.message import Message
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from runtime.labelled import LabelledPrediction
from server.client.errors import (
    ClientError,
    DeadlineExceeded,
    NotReady,
    Overloaded,
    ServerRefused,
    UnexpectedReply,
)

Shape = TypeVar("Shape")
SHOWN = 200
"""Characters of an unexpected reply that its error shows."""


@dataclass(frozen=True)
class Timing:
    """Milliseconds on the server, from the arrival of the request's last byte."""

    decode: float
    """Reading the body, decoding images, tokenizing texts."""
    queue: float
    """Waiting for the engine."""
    compute: float
    """Trunk, heads and vote."""
    total: float


@dataclass(frozen=True)
class Reply:
    """One prediction per input, in the order of the inputs."""

    id: str
    """Id of the request, as in the server's log."""
    model: str
    version: str
    engine: str
    precision: str
    """That the engine computes in."""
    vote: str
    """What the heads' votes are the mean of: probabilities or logits."""
    predictions: tuple[LabelledPrediction, ...]
    timing_ms: Timing


@dataclass(frozen=True)
class ExitPoint:
    """What stopping at `min_confidence` gave where it was measured."""

    min_confidence: float
    accuracy: float
    mean_heads: float


@dataclass(frozen=True)
class EarlyExit:
    """The table that `target_accuracy` is looked up in, and the split of the data it comes from."""

    split: str
    rows: int
    points: tuple[ExitPoint, ...]


@dataclass(frozen=True)
class Evaluation:
    """Measured quality of the calibrated vote on one split: NLL in nats, ECE with 15 bins."""

    split: str
    rows: int
    accuracy: float
    nll: float
    brier: float
    ece: float
    head_accuracy: tuple[float, ...]
    disagreement: float | None


@dataclass(frozen=True)
class Model:
    """A served model."""

    name: str
    version: str
    modality: str
    """What it takes: image, text or tensor."""
    default: bool
    """It answers requests of its modality that name no model."""
    description: str
    labels: tuple[str, ...]
    heads: int
    min_heads: int
    """Fewest heads that vote under load; the same as heads where none is ever shed."""
    vote: str
    precision: str
    density: float
    """Fraction of the weights that the sparsity masks keep."""
    nonzero: int
    dense_macs: int
    effective_macs: int
    evaluation: tuple[Evaluation, ...]
    early_exit: EarlyExit
    engine: str
    engine_version: str
    cores: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Models:
    models: tuple[Model, ...]


@dataclass(frozen=True)
class _Refusal:
    error: str
    code: str
    id: str
    retry_after_ms: float | None = None


_REPLY = TypeAdapter(Reply)
_MODELS = TypeAdapter(_Models)
_REFUSAL = TypeAdapter(_Refusal)


def read_reply(body: bytes) -> Reply:
    """Read a reply of /predict. Raises UnexpectedReply."""
    return _read(_REPLY, body)


def read_models(body: bytes) -> tuple[Model, ...]:
    """Read a reply of /models. Raises UnexpectedReply."""
    return _read(_MODELS, body).models


def refusal(status: int, headers: Message, body: bytes) -> ClientError:
    """Return the error that a reply with a status other than 200 stands for."""
    if 300 <= status < 400:
        return UnexpectedReply(
            f"The server redirects to {headers.get('location', 'nowhere')!r}. Redirects are not followed: use the "
            "address of the server itself."
        )
    try:
        said = _REFUSAL.validate_json(body)
    except ValidationError:
        return UnexpectedReply(f"The reply has status {status} and is not from this kind of server: {_shown(body)}")
    if status == 504:
        return DeadlineExceeded(said.error)
    temporary = {429: Overloaded, 503: NotReady}.get(status)
    if temporary is None:
        return ServerRefused(said.error, status=status, code=said.code, id=said.id)
    after = headers.get("retry-after", "")
    seconds = float(after) if after.isdecimal() else 1.0
    if said.retry_after_ms is not None:
        seconds = said.retry_after_ms / 1000
    return temporary(said.error, status=status, code=said.code, id=said.id, retry_after_seconds=seconds)


def _read(adapter: TypeAdapter[Shape], body: bytes) -> Shape:
    try:
        return adapter.validate_json(body, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "all of it"
        raise UnexpectedReply(
            f"The reply is not what this client reads ({where}: {first['msg']}): {_shown(body)}"
        ) from error


def _shown(body: bytes) -> str:
    text = body.decode("utf-8", "replace")
    return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}...")
