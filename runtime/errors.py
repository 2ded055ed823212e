"""Every error the runtime raises on purpose.

NeurotrailsError
├── AlreadyExists            something immutable would be overwritten
├── ArtifactError            an artifact cannot be trusted or read
│   └── SchemaTooNew         it was written by a newer version of this software
├── EngineError              an engine cannot do what was asked
│   ├── EngineNotInstalled   its package is missing
│   └── UnsupportedModel     it cannot run this artifact (well)
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


class EngineError(NeurotrailsError):
    """An engine failed or cannot do what was asked of it."""


class EngineNotInstalled(EngineError):  # noqa: N818
    """The package behind an engine is not installed (or not installable on this platform)."""


class UnsupportedModel(EngineError):  # noqa: N818
    """An engine cannot run this artifact, or only on a slow path."""


class InspectionError(NeurotrailsError):
    """An artifact cannot be shown in the way that was asked for, or not be written where it was asked."""


class InputError(NeurotrailsError):
    """An input cannot be predicted. `code` is a stable, machine-readable reason such as `image_too_large`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
