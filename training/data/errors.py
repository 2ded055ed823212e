"""What can go wrong with data.

NeurotrailsError
└── DataError              the data cannot be used; the message names the file, and the line where there is one
    ├── DataUnavailable    a known data set could not be obtained; `tried` lists every place and why it failed
    └── FetchError         one way to fetch something failed
"""

from collections.abc import Sequence

from runtime.errors import NeurotrailsError


class DataError(NeurotrailsError):
    """Data is missing, damaged or does not fit the configuration."""


class DataUnavailable(DataError):  # noqa: N818 - reads as a statement, like EngineNotInstalled
    """A known data set was found nowhere and could not be fetched."""

    def __init__(self, title: str, tried: Sequence[str], remedy: str) -> None:
        reasons = "".join(f"\n  - {reason}" for reason in tried)
        super().__init__(f"{title} could not be obtained. Tried, in this order:{reasons}\n{remedy}")
        self.tried = tuple(tried)


class FetchError(DataError):
    """One way to fetch something failed; the message says why."""
