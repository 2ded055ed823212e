"""What all scenarios of serving.py share: the plan of a run, and the network that saturation and overload serve."""

import io
import multiprocessing
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from environment import REPOSITORY, Environment
from runtime.engines.base import EngineInfo
from serving_client import request_bytes
from serving_machine import Cores, ServerProcess, ServingBenchmarkError, pinned
from serving_results import Subject

SEED = 0
IMAGES = 32
"""Different images that are sent."""


@dataclass(frozen=True)
class Plan:
    """How long everything takes, and what is measured."""

    smoke: bool
    live: str
    """Name of the live network of saturation and overload."""
    batch_sizes: tuple[int, ...]
    """That the server and the bare predictor compile."""
    latency_rounds: int
    latency_calls: int
    """Requests, and calls, in each round of `latency`."""
    saturation_rounds: int
    saturation_seconds: float
    """Of each round of `saturation`, for the server and for the bare predictor."""
    most_per_second: float
    """Bound of the capacity that overload assumes: a smoke run's network is faster than a load generator."""
    point_seconds: float
    """Of each offered load, after `settle_seconds`."""
    settle_seconds: float
    overload_seconds: float
    """Of the overload during which memory is watched."""
    recovery_seconds: float
    requests: int
    """Of `integrity`."""


FULL = Plan(
    smoke=False, live="resnet50", batch_sizes=(1, 4, 16), latency_rounds=40, latency_calls=60, saturation_rounds=4,
    saturation_seconds=10.0, most_per_second=1e9, point_seconds=12.0, settle_seconds=4.0, overload_seconds=36.0,
    recovery_seconds=15.0, requests=100_000,
)  # fmt: skip
SMOKE = Plan(
    smoke=True, live="tiny", batch_sizes=(1, 4), latency_rounds=2, latency_calls=5, saturation_rounds=2,
    saturation_seconds=0.3, most_per_second=40.0, point_seconds=0.4, settle_seconds=0.2, overload_seconds=0.6,
    recovery_seconds=2.0, requests=300,
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One run of serving.py."""

    plan: Plan
    environment: Environment
    cores: Cores
    engine: str
    models: Path
    """The shipped artifacts."""
    workspace: Path
    show: Callable[[str], None]
    """Tells the user what is going on."""

    @property
    def log(self) -> Path:
        """What servers print."""
        return self.workspace / "server.log"

    def subject(self, network: str, info: EngineInfo) -> Subject:
        """Describe what a scenario measured."""
        return Subject(
            environment=self.environment,
            cores=self.cores,
            network=network,
            engine=info.name,
            engine_version=info.version,
            precision=info.precision,
        )

    def folder_with(self, artifact: Path) -> Path:
        """A models folder that holds only this artifact."""
        models = self.workspace / f"only-{artifact.name}"
        if not models.exists():
            shutil.copytree(artifact, models / artifact.name)
        return models

    def live_models(self) -> Path:
        """A models folder with the live network, built in a process of its own, so that PyTorch stays away."""
        models = self.workspace / "live"
        if not models.exists():
            self.show(f"building {self.plan.live} with live random weights")
            context = multiprocessing.get_context("spawn")
            everywhere = (self.cores.server, self.cores.load)
            with pinned(*everywhere), ProcessPoolExecutor(1, mp_context=context) as pool:
                pool.submit(_build, self.plan.live, models / self.plan.live).result()
        return models


def require_same_engine(server: ServerProcess, bare: EngineInfo) -> None:
    """Raise ServingBenchmarkError unless the only model of the server runs on the engine of the bare predictor."""
    [model] = server.get("/models")[1]["models"]
    served = (model["engine"], model["engine_version"], model["precision"], model["cores"])
    if served != (bare.name, bare.version, bare.precision, bare.cores):
        raise ServingBenchmarkError(
            f"The server computes with {served}, the bare predictor with "
            f"{(bare.name, bare.version, bare.precision, bare.cores)}: they cannot be compared. Choose an --engine."
        )


def photographs(side: int) -> list[bytes]:
    """Draw JPEG files of about the content of photographs: smooth, with some detail."""
    generator = np.random.default_rng(SEED)
    files = []
    for _ in range(IMAGES):
        coarse = Image.fromarray(generator.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float32)
        pixels = (smooth + generator.normal(0, 6, smooth.shape)).clip(0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


def live_images(plan: Plan) -> list[bytes]:
    """Images for the live network, somewhat larger than it wants them."""
    return photographs(320 if plan.live == "resnet50" else 16)


def posts(files: list[bytes], query: str, content_type: str) -> list[bytes]:
    """Requests that post each file as it is."""
    return [request_bytes("POST", f"/predict{query}", file, {"content-type": content_type}) for file in files]


def example_images() -> list[bytes]:
    """The genuine images for fashion-mnist."""
    return [path.read_bytes() for path in sorted((REPOSITORY / "examples" / "fashion-mnist").glob("*.png"))]


def _build(name: str, folder: Path) -> None:
    from live_networks import LIVE  # needs PyTorch

    folder.parent.mkdir(parents=True)
    LIVE[name].write(folder)
