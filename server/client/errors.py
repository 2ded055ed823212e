"""Every error that the client raises on purpose.

NeurotrailsError
└── ClientError             there is no answer
    ├── InvalidURL          the address of the server is not one
    ├── Unreachable         no connection, or it broke before the reply was complete
    ├── DeadlineExceeded    504, or no reply at all within the timeout
    ├── UnexpectedReply     what replied is not this kind of server: a proxy, a redirect
    └── ServerRefused       a reply that is an error; it says `status`, `code` and `id`
        ├── Overloaded      429 too much waits there; says `retry_after_seconds`
        └── NotReady        503 loading, shutting down, too many connections; says `retry_after_seconds`
"""

from runtime.errors import NeurotrailsError


class ClientError(NeurotrailsError):
    """The server gave no answer. The message is one sentence."""


class InvalidURL(ClientError, ValueError):  # noqa: N818 - reads as a statement, as all below
    """The address of the server is not `http://HOST[:PORT][/PATH]` or the same with https."""


class Unreachable(ClientError):  # noqa: N818
    """There is no connection to the server, or it broke before the reply was complete."""


class DeadlineExceeded(ClientError):  # noqa: N818
    """The answer was not there in time: the server says so (504), or it said nothing at all."""


class UnexpectedReply(ClientError):  # noqa: N818
    """What replied does not speak like this server; it may be a proxy, or another service. Redirects end here too."""


class ServerRefused(ClientError):  # noqa: N818
    """The server replied with an error. The message is the sentence that it gave."""

    def __init__(self, message: str, *, status: int, code: str, id: str) -> None:  # noqa: A002 - named like the field
        super().__init__(message)
        self.status = status
        """HTTP status, such as 413."""
        self.code = code
        """A stable, machine-readable reason such as `image_too_large`."""
        self.id = id
        """Id of the request, as in the server's log."""


class _RefusedForNow(ServerRefused):
    def __init__(self, message: str, *, status: int, code: str, id: str, retry_after_seconds: float) -> None:  # noqa: A002
        super().__init__(message, status=status, code=code, id=id)
        self.retry_after_seconds = retry_after_seconds
        """When it is worth asking again; 1 where the server did not say."""


class Overloaded(_RefusedForNow):
    """429: so much work waits at the server that the answer would be late."""


class NotReady(_RefusedForNow):
    """503: the models are still loading, the server is shutting down, or it has too many connections."""
