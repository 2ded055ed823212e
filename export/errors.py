"""Every error that export raises on purpose.

NeurotrailsError
└── ExportRefused   the artifact would not be what the checkpoint is; nothing was written
"""

from runtime.errors import NeurotrailsError


class ExportRefused(NeurotrailsError):  # noqa: N818 - reads as a statement
    """The artifact would not be what the checkpoint is; nothing was written."""
