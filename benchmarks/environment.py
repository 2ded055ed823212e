"""Where a benchmark ran: processor, cores, versions, commit; and the peak arithmetic rate that was measured there."""

import os
import platform
import shlex
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from pydantic import BaseModel, ConfigDict

from runtime.cores import core_budget
from runtime.graph import OPSET

FLAGS = (
    "avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16",
    "asimd", "asimddp", "i8mm", "bf16", "sve",
)  # fmt: skip
"""Processor flags that decide which kernels an engine may use."""
PACKAGES = ("neurotrails", "numpy", "onnx", "onnxruntime", "deepsparse", "openvino", "torch")
PEAK_SIZES = (1024, 2048)
PEAK_RUNS = 8
REPOSITORY = Path(__file__).resolve().parent.parent


class Environment(BaseModel):
    """The machine and the software of one benchmark run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    date: str
    """UTC, ISO 8601."""
    command: str
    commit: str | None
    """Git commit; None outside a repository. `-dirty` is appended when tracked files had changed."""
    cpu: str
    flags: tuple[str, ...]
    cores: int
    cores_source: str
    """Where the number of cores comes from."""
    system: str
    python: str
    packages: dict[str, str]
    load_average: float | None
    """Of the last minute, before the run: a quiet machine is near 0."""


def describe_environment(cores: int | None) -> Environment:
    """Describe this machine; `cores` is what the user asked for, None for the core budget."""
    budget = core_budget()
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    model, flags = _processor()
    return Environment(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        command=shlex.join(["python", *sys.argv]),
        commit=_commit(),
        cpu=model,
        flags=tuple(flag for flag in FLAGS if flag in flags),
        cores=cores or budget.cores,
        cores_source="--cores" if cores else budget.source,
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        packages=packages,
        load_average=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    )


def measure_peak(cores: int) -> float:
    """Single-precision MACs per second that ONNX Runtime's matrix product reaches on `cores` cores: the best of some.

    This is the highest rate that real code was seen to reach here, somewhat below the arithmetic limit of the cores.
    """
    best = 0.0
    options = ort.SessionOptions()
    options.intra_op_num_threads = cores
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for size in PEAK_SIZES:
        weight = np.random.default_rng(0).standard_normal((size, size), dtype=np.float32)
        graph = helper.make_graph(
            [helper.make_node("MatMul", ["a", "b"], ["y"])],
            "peak",
            [helper.make_tensor_value_info("a", TensorProto.FLOAT, [size, size])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [size, size])],
            [numpy_helper.from_array(weight, "b")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        for _ in range(PEAK_RUNS):
            started = time.perf_counter()
            session.run(None, {"a": weight})
            best = max(best, size**3 / (time.perf_counter() - started))
    return best


def _processor() -> tuple[str, set[str]]:
    """Model name and flags from /proc/cpuinfo; the platform's word for it where there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine(), set()
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return fields.get("model name", platform.machine()), set(fields.get("flags", fields.get("Features", "")).split())


def _commit() -> str | None:
    try:
        commit = _git("rev-parse", "HEAD")
        return f"{commit}-dirty" if _git("status", "--porcelain", "--untracked-files=no") else commit
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(REPOSITORY), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()
