"""Every error the runtime raises on purpose.

NeurotrailsError
├── AlreadyExists            something immutable would be overwritten
├── ArtifactError            an artifact cannot be trusted or read
│   └── SchemaTooNew         it was written by a newer version of this software
├── CacheError               the cache folder cannot keep what it should
├── EngineError              an engine cannot do what was asked
│   ├── EngineNotInstalled   its package is missing
│   ├── UnsupportedModel     it cannot run this artifact (well)
│   ├── WorkerDied           the process that computed a call ended; the call may be made again
│   ├── WorkerStuck          a call took longer than allowed, and its process was killed
│   └── WorkersFailed        no worker process can be started any more
├── InspectionError          an artifact cannot be shown as was asked
└── InputError               an input cannot be predicted; `code` says why in one word
"""


class NeurotrailsError(Exception):
    """Root of all errors that this project raises on purpose. The message says what was wrong and what to do."""


class AlreadyExists(NeurotrailsError, FileExistsError):  # noqa: N818 - reads as a statement
    """Something immutable would be overwritten."""


class ArtifactError(NeurotrailsError):
    """An artifact is incomplete, altered or malformed."""


class SchemaTooNew(ArtifactError):  # noqa: N818
    """An artifact has a schema version that this software does not know yet."""


class CacheError(NeurotrailsError):
    """The cache folder cannot keep what it should."""


class EngineError(NeurotrailsError):
    """An engine failed or cannot do what was asked of it."""


class EngineNotInstalled(EngineError):  # noqa: N818
    """The package behind an engine is not installed (or not installable on this platform)."""


class UnsupportedModel(EngineError):  # noqa: N818
    """An engine cannot run this artifact, or only on a slow path."""


class WorkerDied(EngineError):  # noqa: N818
    """The worker process that computed a call, or held its features, has ended. The call may be made again."""


class WorkerStuck(EngineError):  # noqa: N818
    """A call took longer than allowed, so its worker process was killed."""


class WorkersFailed(EngineError):  # noqa: N818
    """An engine has no worker process left, and starting one has failed several times in a row."""


class InspectionError(NeurotrailsError):
    """An artifact cannot be shown in the way that was asked for, or not be written where it was asked."""


class InputError(NeurotrailsError):
    """An input cannot be predicted. `code` is a stable, machine-readable reason such as `image_too_large`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
