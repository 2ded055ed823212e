"""Every error that training and export raise on purpose.

NeurotrailsError
└── TrainingError
    ├── ConfigError       a recipe or an override is invalid
    └── CheckpointError   a checkpoint is missing, damaged, or does not fit the run
"""

from runtime.errors import NeurotrailsError


class TrainingError(NeurotrailsError):
    """Training cannot go on."""


class ConfigError(TrainingError):
    """A recipe or an override is invalid; the message names the field and the value."""


class CheckpointError(TrainingError):
    """A checkpoint is missing, damaged, or does not fit the run that wants it."""
