"""The engines that tests run on: all that are installed."""

import pytest

from runtime.engines import installed_engines
from runtime.errors import EngineNotInstalled

ENGINE_NAMES = [name for name, found in installed_engines().items() if not isinstance(found, EngineNotInstalled)]
"""Parameters: native and onnxruntime, as tests/runtime/test_engines.py insists, and deepsparse where it exists."""

needs_deepsparse = pytest.mark.skipif("deepsparse" not in ENGINE_NAMES, reason="DeepSparse is not installed")
