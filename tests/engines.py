"""The engines that tests run on: all that are installed."""

import onnx
import onnxruntime
import pytest

from runtime.engines import installed_engines
from runtime.engines.onnxruntime import _shared_pool
from runtime.errors import EngineNotInstalled

ENGINE_NAMES = [name for name, found in installed_engines().items() if not isinstance(found, EngineNotInstalled)]
"""Parameters: native and onnxruntime, as test_engines.py insists; deepsparse and openvino where they exist."""

needs_deepsparse = pytest.mark.skipif("deepsparse" not in ENGINE_NAMES, reason="DeepSparse is not installed")


def onnx_session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """Plain ONNX Runtime; on the process-wide pool once an engine of this process has made it: it accepts no other."""
    options = onnxruntime.SessionOptions()
    options.use_per_session_threads = _shared_pool(cores=1) is None
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
