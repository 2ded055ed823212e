"""One run of native.py: for each work and batch size load all engines, measure them in turns, let them go again."""

import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from engine_process import EngineProcess
from environment import Environment, measure_peak
from native_results import (
    NATIVE,
    LoadAimResult,
    LoadFailure,
    LoadRecord,
    NativeResults,
    NativeRow,
    engine_latencies,
    judge,
    judge_load,
)
from native_works import PreparedWork, Work, prepare_work
from networks import macs
from rounds import Panel, Subject, run_rounds
from runtime.errors import EngineError

LOADS = 3
"""Loads of each kind, cold and warm."""
SEED = 0


@dataclass
class NativeRun:
    """One benchmark run, and what it has found so far."""

    environment: Environment
    engines: tuple[str, ...]
    engines_missing: dict[str, str]
    batches: tuple[int, ...]
    rounds: int
    seconds: float
    """Least time spent on the rounds of each row: short calls get more rounds."""
    show: Callable[[str], None]
    """Tells the user what is going on."""
    loads: list[LoadRecord] = field(default_factory=list)
    load_aims: list[LoadAimResult] = field(default_factory=list)
    failures: list[LoadFailure] = field(default_factory=list)

    def measure(self, works: tuple[Work, ...], models: Path, workspace: Path) -> NativeResults:
        """Measure all works, one after the other, so that memory and disk hold one of them."""
        started = time.perf_counter()
        cores = self.environment.cores
        peak = measure_peak(cores)
        measured: list[tuple[PreparedWork, Panel[Subject]]] = []
        for work in works:
            self.show(f"{work.name}: preparing")
            prepared = prepare_work(work, models, workspace, threads=cores)
            if work.load_aims is not None:
                self._time_loads(prepared)
            measured += [(prepared, panel) for batch in self.batches if (panel := self._panel(prepared, batch))]
            if work.density is not None:
                shutil.rmtree(prepared.folder)
        peak = max(peak, measure_peak(cores))
        return NativeResults(
            smoke=any(work.is_smoke for work in works),
            environment=self.environment,
            peak_macs_per_second=peak,
            seconds=time.perf_counter() - started,
            engines_missing=self.engines_missing,
            rows=tuple(_row(prepared, panel, peak) for prepared, panel in measured),
            loads=tuple(self.loads),
            load_aims=tuple(self.load_aims),
            failures=tuple(self.failures),
        )

    def _panel(self, prepared: PreparedWork, batch: int) -> Panel[Subject] | None:
        """Measure one work at one batch size; None if no engine can load it."""
        name, heads = f"{prepared.work.name}, batch {batch}", len(prepared.manifest.heads)
        with ExitStack() as stack:
            processes: dict[str, EngineProcess] = {}
            for engine in self.engines:
                self.show(f"{name}: loading on {engine}")
                process = stack.enter_context(EngineProcess(engine, cores=self.environment.cores))
                if self._load(process, prepared, batch):
                    process.prime(name, batch=batch, heads=heads)
                    processes[engine] = process
            if not processes:
                return None
            subjects = (Subject(prepared.work.name, engine, batch, "sparse", heads, heads) for engine in processes)
            panel = Panel(name, tuple(subjects))
            self.show(f"{name}: measuring")
            run_rounds(
                [panel],
                lambda subject: processes[subject.engine].measure(name, batch=batch, heads=heads),
                at_least=self.rounds,
                enough=lambda: panel.seconds >= self.seconds,
                generator=np.random.default_rng(SEED),
            )
        return panel

    def _load(self, process: EngineProcess, prepared: PreparedWork, batch: int) -> bool:
        """Load a work for one batch size; a failure is reported, never replaced by another engine."""
        work = prepared.work.name
        try:
            loaded = process.load(
                f"{work}, batch {batch}", prepared.folder, batch_sizes=(batch,), tokens=prepared.tokens
            )
        except EngineError as error:
            self.failures.append(LoadFailure(work=work, batch=batch, engine=process.engine, message=str(error)))
            return False
        info = loaded.info
        self.loads.append(
            LoadRecord(
                work=work, batch=batch, engine=process.engine, engine_version=info.version, seconds=loaded.seconds,
                rss_bytes=loaded.rss_bytes, notes=info.notes,
            )
        )  # fmt: skip
        return True

    def _time_loads(self, prepared: PreparedWork) -> None:
        """Load on native in fresh processes: with an empty cache of compiled code, then with what that has left."""
        aims = prepared.work.load_aims
        if aims is None or NATIVE not in self.engines:
            return
        seconds: dict[Literal["cold", "warm"], list[float]] = {"cold": [], "warm": []}
        for number in range(LOADS):
            with tempfile.TemporaryDirectory(prefix="neurotrails-cache-") as cache:
                for kind, found in seconds.items():
                    self.show(f"{prepared.work.name}: {kind} load {number + 1} of {LOADS}")
                    with EngineProcess(NATIVE, cores=self.environment.cores, cache=Path(cache)) as process:
                        if not self._load(process, prepared, 1):
                            return
                    found.append(self.loads.pop().seconds)
        self.load_aims.append(judge_load(prepared.work.name, "cold", seconds["cold"], aims.cold))
        self.load_aims.append(judge_load(prepared.work.name, "warm", seconds["warm"], aims.warm))


def _row(prepared: PreparedWork, panel: Panel[Subject], peak: float) -> NativeRow:
    work, manifest = prepared.work, prepared.manifest
    batch = panel.subjects[0].batch
    dense, effective = (batch * count for count in macs(manifest, len(manifest.heads), prepared.tokens))
    engines = engine_latencies(panel, effective, peak)
    aim = work.aims.get(batch)
    return NativeRow(
        work=work.name,
        network=work.network,
        density=manifest.sparsity.density,
        weights=prepared.weights,
        heads=len(manifest.heads),
        tokens=prepared.tokens,
        batch=batch,
        dense_macs=dense,
        effective_macs=effective,
        artifact_sha256=prepared.sha256,
        engines=engines,
        aim=None if aim is None else judge(aim.ratio, aim.against, engines),
    )
