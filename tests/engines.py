"""The engines that tests run on: all there are; one that cannot be had here is skipped and says why."""

import pytest

from runtime.engines import installed_engines
from runtime.errors import EngineNotInstalled

ENGINE_NAMES = [
    pytest.param(name, marks=pytest.mark.skipif(isinstance(found, EngineNotInstalled), reason=str(found)))
    for name, found in installed_engines().items()
]
"""Parameters: the names of all engines."""

needs_deepsparse = pytest.mark.skipif(
    isinstance(installed_engines()["deepsparse"], EngineNotInstalled), reason="DeepSparse is not installed"
)
