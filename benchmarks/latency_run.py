"""One run of cpu_latency.py: export, load, warm up, measure in rounds until the time is used, reckon."""

import itertools
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine_process import EngineProcess
from environment import Environment, measure_peak
from latency_results import Failure, LatencyResults, LoadResult, NetworkResult, subject_results
from networks import Contender, macs, network_names, prepare
from rounds import KINDS, Kind, Panel, Subject, run_rounds, subjects_of
from runtime.artifact import MANIFEST, sha256_of
from runtime.engines import engine_class, installed_engines
from runtime.errors import EngineError, EngineNotInstalled

AT_LEAST_ROUNDS = 5
SMOKE_ROUNDS = 2
SEED = 0


@dataclass(frozen=True)
class Run:
    """One benchmark run: everything but networks and output."""

    environment: Environment
    engines: tuple[str, ...]
    engines_missing: dict[str, str]
    batches: tuple[int, ...]
    seconds: float
    smoke: bool
    show: Callable[[str], None]
    """Tells the user what is going on."""

    def measure(self, networks: tuple[str, ...], models: Path, workspace: Path) -> LatencyResults:
        """Export, load, warm up, measure in rounds until the time is used, reckon."""
        started = time.perf_counter()
        contenders = self._export(networks, models, workspace)
        self.show("measuring the fp32 peak")
        peak = measure_peak(self.environment.cores)
        with ExitStack() as stack:
            processes = {
                name: stack.enter_context(EngineProcess(name, cores=self.environment.cores)) for name in self.engines
            }
            loads, failures = self._load(processes, contenders)
            panels = self._panels(contenders, failures)
            self._warm_up(processes, panels)
            prepared = time.perf_counter()
            run_rounds(
                panels,
                lambda subject: processes[subject.engine].measure(
                    artifact_key(subject.network, subject.kind), batch=subject.batch, heads=subject.heads
                ),
                at_least=SMOKE_ROUNDS if self.smoke else AT_LEAST_ROUNDS,
                enough=lambda: time.perf_counter() - started > self.seconds,
                generator=np.random.default_rng(SEED),
                after_round=lambda panel: self.show(f"{panel.name}, round {panel.rounds}"),
            )
            measured = time.perf_counter()
        peak = max(peak, measure_peak(self.environment.cores))
        by_name = {contender.name: contender for contender in contenders}

        def macs_of(subject: Subject) -> tuple[int, int]:
            contender = by_name[subject.network]
            return macs(contender.manifests[subject.kind], subject.heads, contender.tokens)

        return LatencyResults(
            smoke=self.smoke,
            environment=self.environment,
            peak_macs_per_second=peak,
            budget_seconds=self.seconds,
            preparation_seconds=prepared - started,
            measuring_seconds=measured - prepared,
            networks=tuple(
                NetworkResult(
                    name=each.name,
                    heads=each.heads,
                    density=each.manifests["sparse"].sparsity.density,
                    weights=dict(each.weights),
                    tokens=each.tokens,
                    artifact_sha256=sha256_of(each.folders["sparse"] / MANIFEST),
                )
                for each in contenders
            ),
            engines_missing=self.engines_missing,
            loads=tuple(loads),
            failures=tuple(failures),
            subjects=subject_results(panels, macs_of, peak),
        )

    def _export(self, networks: tuple[str, ...], models: Path, workspace: Path) -> list[Contender]:
        contenders = []
        for name in network_names(models, networks):
            self.show(f"exporting {name}")
            contenders.append(prepare(name, models, workspace, threads=self.environment.cores))
        return contenders

    def _load(
        self, processes: dict[str, EngineProcess], contenders: list[Contender]
    ) -> tuple[list[LoadResult], list[Failure]]:
        """Load every artifact on every engine; one that cannot run is reported, never replaced."""
        loads, failures = [], []
        for contender, (name, process), kind in itertools.product(contenders, processes.items(), KINDS):
            self.show(f"loading {contender.name} ({kind}) on {name}")
            try:
                loaded = process.load(
                    artifact_key(contender.name, kind), contender.folders[kind],
                    batch_sizes=self.batches, tokens=contender.tokens,
                )  # fmt: skip
            except EngineError as error:
                failures.append(Failure(network=contender.name, kind=kind, engine=name, message=str(error)))
                continue
            info = loaded.info
            loads.append(
                LoadResult(
                    network=contender.name, kind=kind, engine=name, engine_version=info.version,
                    precision=info.precision, load_seconds=info.load_seconds, rss_bytes=loaded.rss_bytes,
                    notes=info.notes,
                )
            )  # fmt: skip
        if not loads:
            raise EngineError(f"No engine could load anything: {failures[0].message}")
        return loads, failures

    def _panels(self, contenders: list[Contender], failures: list[Failure]) -> list[Panel[Subject]]:
        """One panel for each network and batch size, without what failed to load."""
        failed = {(failure.network, failure.engine, failure.kind) for failure in failures}
        panels = []
        for contender, batch in itertools.product(contenders, self.batches):
            subjects = [
                subject
                for engine in self.engines
                for subject in subjects_of(contender.name, engine, batch, contender.heads)
                if (subject.network, subject.engine, subject.kind) not in failed
            ]
            if subjects:
                panels.append(Panel(f"{contender.name}, batch {batch}", tuple(subjects)))
        return panels

    def _warm_up(self, processes: dict[str, EngineProcess], panels: list[Panel[Subject]]) -> None:
        for panel in panels:
            self.show(f"warming up {panel.name}")
            for subject in panel.subjects:
                processes[subject.engine].prime(
                    artifact_key(subject.network, subject.kind), batch=subject.batch, heads=subject.heads
                )


def artifact_key(network: str, kind: Kind) -> str:
    """Name of an artifact within the engine processes."""
    return f"{network}/{kind}"


def choose_engines(wanted: tuple[str, ...]) -> tuple[tuple[str, ...], dict[str, str]]:
    """Engines to measure, and those that are not installed with what to do about it.

    Raises EngineNotInstalled or EngineError for an engine that was asked for and cannot be had.
    """
    for name in wanted:
        engine_class(name)
    found = installed_engines()
    missing = {name: str(error) for name, error in found.items() if isinstance(error, EngineNotInstalled)}
    return tuple(dict.fromkeys(wanted)) or tuple(name for name in found if name not in missing), missing
