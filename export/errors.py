"""Every error that export raises on purpose.

NeurotrailsError
├── ExportMisused          the arguments do not go together
├── ExportRefused          what was to be written would not be what the source is; nothing was written
└── TrainingNotInstalled   a checkpoint was to be exported without PyTorch
"""

from runtime.errors import NeurotrailsError


class ExportMisused(NeurotrailsError):  # noqa: N818 - reads as a statement
    """The arguments of the verb do not go together."""


class ExportRefused(NeurotrailsError):  # noqa: N818
    """What was to be written would not be what the checkpoint or the artifact is; nothing was written."""


class TrainingNotInstalled(NeurotrailsError):  # noqa: N818
    """A checkpoint was to be exported where a package of the extra `train` is missing."""
