"""The verb `tune`: which engine runs an artifact best on this machine, measured and remembered for `engine: auto`.

neurotrails tune models/fashion-mnist --target-p99 20ms
"""

import os
import re
from typing import Annotated

from cyclopts import Parameter

from runtime.artifact import Artifact
from runtime.cores import core_budget
from runtime.cpu import cpu
from runtime.errors import EngineError
from runtime.tuning.candidates import candidates
from runtime.tuning.choose import best, fastest
from runtime.tuning.measure import COSTS_SHARE, Plan, measure, price
from runtime.tuning.plot import plot
from runtime.tuning.progress import Progress
from runtime.tuning.records import Trial, Tuning
from runtime.tuning.render import render
from runtime.tuning.store import tuning_path, write_tuning

UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0}


def tune(
    artifact: str,
    *,
    target_p99: str | None = None,
    budget: str = "60s",
    engine: list[str] | None = None,
    precision: list[str] | None = None,
    batch_size: list[int] | None = None,
    cores: int | None = None,
    accept_deepsparse_licence: Annotated[
        bool, Parameter(env_var="NEUROTRAILS_ACCEPT_DEEPSPARSE_LICENCE", negative=())
    ] = False,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Measure which engine runs an artifact best on this machine, and let `engine: auto` use it from then on.

    Keep the machine quiet meanwhile. What is written counts for this artifact, CPU model and number of cores.

    Args:
        artifact: Folder of the artifact.
        target_p99: Choose the most rows per second among what answers 99 of 100 calls within this time, such as 20ms.
            Default: choose the lowest latency.
        budget: Time to measure, such as 60s or 2m, after all engines have loaded.
        engine: Engine to try; can be given several times. Default: all that are installed.
        precision: Precision to execute in; can be given several times. Default: only the one that the artifact is
            stored in, because another one, such as bf16, changes answers slightly.
        batch_size: Rows in a call; can be given several times. Default: 1, 4 and 16.
        cores: Core budget. Default: all that this process may use.
        accept_deepsparse_licence: Try DeepSparse too, whose licence covers evaluation only.
        json: Print what is written, as JSON.

    Raises:
        ArtifactError: The artifact is not what it says.
        CacheError: The result cannot be kept.
        EngineError: No engine can run it, or an option makes no sense.
    """
    opened = Artifact.open(artifact)
    budget_cores = core_budget().cores if cores is None else cores
    target_seconds = None if target_p99 is None else seconds_of("--target-p99", target_p99)
    setups, left_out = candidates(
        opened,
        cores=budget_cores,
        engines=engine or (),
        precisions=precision or (opened.manifest.precision,),
        accept_deepsparse_licence=accept_deepsparse_licence,
    )
    sizes = tuple(sorted(set(batch_size or (1, 4, 16))))
    if sizes[0] < 1:
        raise EngineError(f"--batch-size must be at least 1, not {sizes[0]}.")
    plan = Plan(opened, setups, sizes, target_seconds, seconds_of("--budget", budget), budget_cores)
    path = tuning_path(opened, budget_cores)
    progress = Progress()
    try:
        tuning = run(plan, progress)
    finally:
        progress.clear()
    picture = write_tuning(path, tuning, plot(tuning))
    if json:
        print(tuning.model_dump_json(indent=1))
        return
    print("\n".join(render(tuning, left_out)))
    print(f"written   {path}\n          {picture}")


def run(plan: Plan, progress: Progress) -> Tuning:
    """Measure, choose, and price the stages of what was chosen. Raises EngineError where no engine can run it."""
    busy_cores = _busy_cores()
    trials = measure(plan, progress)
    chosen = [choice for choice in (best(trials, plan.target_p99_seconds), fastest(trials)) if choice is not None]
    winners = dict.fromkeys(choice.setup for choice in chosen)
    share = plan.budget_seconds * COSTS_SHARE / len(winners)
    priced = [_priced(plan, trial, progress, share) if trial.setup in winners else trial for trial in trials]
    manifest = plan.artifact.manifest
    return Tuning(
        artifact=manifest.name,
        artifact_version=manifest.version,
        artifact_sha256=plan.artifact.sha256,
        artifact_precision=manifest.precision,
        cpu=cpu()[0],
        cores=plan.cores,
        busy_cores=busy_cores,
        tokens=plan.tokens,
        batch_sizes=plan.batch_sizes,
        target_p99_seconds=plan.target_p99_seconds,
        budget_seconds=plan.budget_seconds,
        trials=tuple(priced),
        fastest=chosen[-1],
        best=chosen[0] if len(chosen) == 2 else None,
    )


def seconds_of(option: str, text: str) -> float:
    """Read a time such as 20ms, 1.5s or 2m. Raises EngineError naming the option."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)\s*([a-z]+)", text.strip())
    if found is None or found[2] not in UNITS or float(found[1]) == 0:
        raise EngineError(f"{option} must be a time such as 20ms, 1.5s or 2m, not {text!r}.")
    return float(found[1]) * UNITS[found[2]]


def _priced(plan: Plan, trial: Trial, progress: Progress, budget_seconds: float) -> Trial:
    return trial.model_copy(update={"costs": price(plan, trial.setup, progress, budget_seconds=budget_seconds)})


def _busy_cores() -> float | None:
    """Load average of the last minute; the measuring itself is not in it yet."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):  # not on every system, and not in every container
        return None
