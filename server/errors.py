"""Every error the server raises on purpose. Each has an HTTP status; `code` is the stable, machine-readable reason.

NeurotrailsError
├── StartupError            the server cannot start: what is wrong, and with which model
├── ServingError            a model, or the list of models, cannot be served as it is; what is served goes on
└── ServerError             a request cannot be answered
    ├── InvalidRequest      400  malformed, or asks for what does not exist
    ├── Unauthorized        401  without a valid key
    ├── Forbidden           403  only the admin port does this
    ├── UnknownModel        404
    ├── NotFound            404
    ├── MethodNotAllowed    405
    ├── BodyTimeout         408  the body did not arrive in time
    ├── CannotServe         409  a model on the search path, or the list of models, is broken
    ├── TooLarge            413  more bytes, inputs, pixels or characters than allowed
    ├── Unsupported         415  neither an image, nor JSON, nor text; or an encoded body
    ├── Overloaded          429  would not be answered in time; says when to ask again
    ├── EngineFailure       500  the engine failed on valid input
    ├── CannotWrite         500  the list of models cannot be written
    ├── NotReady            503  still loading, or shutting down
    ├── TooBusy             503  more connections than allowed
    └── DeadlineExceeded    504  the answer was not there within the request's timeout
"""

from collections.abc import Mapping
from typing import ClassVar, Self

from runtime.errors import InputError, NeurotrailsError


class StartupError(NeurotrailsError):
    """The server cannot start with these settings and models."""


class ServingError(NeurotrailsError):
    """What should be served cannot be: a model, the list of models, or the search path. What is served goes on."""


class ServerError(NeurotrailsError):
    """A request cannot be answered. The message is one sentence for the client."""

    status: ClassVar[int] = 500

    def __init__(
        self,
        code: str,
        message: str,
        headers: Mapping[str, str] | None = None,
        details: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.headers = dict(headers or {})
        self.details = dict(details or {})
        """Further fields of the error's reply."""

    def at(self, index: int) -> Self:
        """Return the same error with a message that names the input it is about."""
        return type(self)(self.code, f"inputs[{index}]: {self}", self.headers, self.details)


class InvalidRequest(ServerError):  # noqa: N818 - named like the reply it causes, as all below
    """The request is malformed or asks for something that does not exist."""

    status = 400


class Unauthorized(ServerError):  # noqa: N818
    """The request names none of the server's keys."""

    status = 401


class Forbidden(ServerError):  # noqa: N818
    """The server does this, but not here."""

    status = 403


class UnknownModel(ServerError):  # noqa: N818
    """No model has the name that was asked for."""

    status = 404


class NotFound(ServerError):  # noqa: N818
    """No such path."""

    status = 404


class MethodNotAllowed(ServerError):  # noqa: N818
    """The path exists, but not for this method."""

    status = 405


class BodyTimeout(ServerError):  # noqa: N818
    """The client took too long to send its body."""

    status = 408


class TooLarge(ServerError):  # noqa: N818
    """The request exceeds one of the limits in the settings."""

    status = 413


class Unsupported(ServerError):  # noqa: N818
    """The body has a format that the server does not read."""

    status = 415


class Overloaded(ServerError):  # noqa: N818
    """So much work waits that the request would not be answered in time."""

    status = 429


class CannotServe(ServerError):  # noqa: N818
    """What is asked for would not be served: a model on the search path, or the list of models, is broken."""

    status = 409


class CannotWrite(ServerError):  # noqa: N818
    """The list of models cannot be written."""

    status = 500


class EngineFailure(ServerError):  # noqa: N818
    """The engine failed although the input was valid."""

    status = 500


class NotReady(ServerError):  # noqa: N818
    """The models are still loading, or the server is shutting down."""

    status = 503


class TooBusy(ServerError):  # noqa: N818
    """The server has more connections than it takes."""

    status = 503


class DeadlineExceeded(ServerError):  # noqa: N818
    """The request's timeout passed before its answer was there."""

    status = 504


_STATUS_OF_INPUT_CODE: dict[str, type[ServerError]] = {
    "image_too_large": TooLarge,
    "not_an_image": Unsupported,
}


def from_input_error(error: InputError) -> ServerError:
    """Give an InputError of the runtime its HTTP status: 413 or 415 for a few codes, else 400."""
    return _STATUS_OF_INPUT_CODE.get(error.code, InvalidRequest)(error.code, str(error))
