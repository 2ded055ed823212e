"""One run of crossover.py: for each network write its artifacts, load all executions, measure them in turns."""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from crossover_results import (
    CrossoverFailure,
    CrossoverPanel,
    CrossoverResults,
    Execution,
    Point,
    judge,
)
from engine_process import EngineProcess
from environment import Environment
from live_networks import LIVE, LiveRecipe
from live_quantized import write_quantized
from networks import BenchmarkError
from rounds import Panel, run_rounds
from runtime.errors import EngineError, UnsupportedModel

EXECUTIONS = (
    Execution("native", "fp32", "sparse"),
    Execution("deepsparse", "fp32", "sparse"),
    Execution("deepsparse", "int8", "sparse"),
    Execution("onnxruntime", "fp32", "dense"),
    Execution("onnxruntime", "int8", "dense"),
    Execution("openvino", "fp32", "dense"),
    Execution("openvino", "bf16", "dense"),
    Execution("openvino", "int8", "dense"),
)
"""Sparse ones of the engines that skip zeros, dense ones of those that do not; each at all that it can compute in."""
SEED = 0


@dataclass(frozen=True)
class Stored:
    """The artifact of a network at one density and precision."""

    density: float
    precision: str

    @property
    def name(self) -> str:
        """Name of its folder, and the key under which engines load it."""
        return f"{self.precision}-{self.density:g}"


class _Ended(Exception):  # noqa: N818 - reads as a statement
    """An execution failed while it was measured."""

    def __init__(self, point: Point, message: str) -> None:
        super().__init__(message)
        self.point = point


@dataclass
class CrossoverRun:
    """One benchmark run, and what it has found so far."""

    environment: Environment
    engines: tuple[str, ...]
    engines_missing: dict[str, str]
    densities: tuple[float, ...]
    batches: tuple[int, ...]
    rounds: int
    seconds: float
    """Least time spent on the rounds of each network and batch size."""
    show: Callable[[str], None]
    """Tells the user what is going on."""
    failures: list[CrossoverFailure] = field(default_factory=list)

    def measure(self, recipes: dict[str, LiveRecipe], workspace: Path) -> Iterator[CrossoverResults]:
        """Measure all networks, one after the other, so that memory and disk hold one of them.

        Yields all results so far after each network and batch size: a run is long, and its end may not come.
        """
        started = time.perf_counter()
        panels: list[CrossoverPanel] = []
        for name, recipe in recipes.items():
            folders = self._write(name, recipe, workspace / name)
            for batch in self.batches:
                panels += filter(None, [self._panel(name, recipe, folders, batch)])
                yield CrossoverResults(
                    smoke=any(name.startswith("tiny") for name in recipes),
                    environment=self.environment,
                    seconds=time.perf_counter() - started,
                    engines_missing=self.engines_missing,
                    panels=tuple(panels),
                    failures=tuple(self.failures),
                )
            shutil.rmtree(workspace / name)

    def _points(self) -> list[Point]:
        return [
            Point(execution, density)
            for execution in EXECUTIONS
            if execution.engine in self.engines
            for density in (self.densities if execution.form == "sparse" else (1.0,))
        ]

    def _write(self, name: str, recipe: LiveRecipe, workspace: Path) -> dict[Stored, Path]:
        """Write every artifact that some execution reads."""
        torch.set_num_threads(self.environment.cores)
        needed = dict.fromkeys(Stored(point.density, point.execution.stored) for point in self._points())
        folders = {}
        for density in dict.fromkeys(stored.density for stored in needed):
            self.show(f"{name}: writing density {density:g}")
            at_density = replace(recipe, density=density)
            folder = folders[Stored(density, "fp32")] = workspace / Stored(density, "fp32").name
            at_density.write(folder)
            if (quantized := Stored(density, "int8")) in needed:
                self.show(f"{name}: quantizing density {density:g}")
                folders[quantized] = workspace / quantized.name
                write_quantized(folder, folders[quantized], at_density, cores=self.environment.cores)
        return folders

    def _panel(self, name: str, recipe: LiveRecipe, folders: dict[Stored, Path], batch: int) -> CrossoverPanel | None:
        """Measure one network at one batch size; None if no engine can load it."""
        heads, tokens = recipe.ensemble.heads, recipe.tokens
        with ExitStack() as stack:
            processes: dict[Execution, EngineProcess] = {}
            points = []
            for point in self._points():
                execution = point.execution
                self.show(f"{name}, batch {batch}: loading density {point.density:g} on {execution.label}")
                if execution not in processes:
                    process = EngineProcess(execution.engine, cores=self.environment.cores)
                    processes[execution] = stack.enter_context(process)
                stored = Stored(point.density, execution.stored)
                try:
                    processes[execution].load(
                        stored.name, folders[stored], batch_sizes=(batch,), tokens=tokens,
                        precision=execution.precision,
                    )  # fmt: skip
                    processes[execution].prime(stored.name, batch=batch, heads=heads)
                except (EngineError, UnsupportedModel) as error:
                    self._fail(name, batch, point, str(error))
                else:
                    points.append(point)
            panel = self._rounds(f"{name}, batch {batch}", points, processes, heads=heads, batch=batch)
        return judge(name, heads, tokens, batch, panel) if panel.subjects else None

    def _rounds(
        self,
        name: str,
        points: Sequence[Point],
        processes: Mapping[Execution, EngineProcess],
        *,
        heads: int,
        batch: int,
    ) -> Panel[Point]:
        """Measure all points in turns; anew without an execution whose process ends, as for want of memory."""
        panel = Panel(name, tuple(points))

        def visit(point: Point) -> list[float]:
            key = Stored(point.density, point.execution.stored).name
            try:
                return processes[point.execution].measure(key, batch=batch, heads=heads)
            except EngineError as error:
                raise _Ended(point, str(error)) from error

        self.show(f"{name}: measuring")
        try:
            if panel.subjects:
                run_rounds(
                    [panel], visit, at_least=self.rounds, enough=lambda: panel.seconds >= self.seconds,
                    generator=np.random.default_rng(SEED),
                )  # fmt: skip
        except _Ended as ended:
            self._fail(name.partition(",")[0], batch, ended.point, str(ended))
            left = [point for point in points if point.execution != ended.point.execution]
            return self._rounds(name, left, processes, heads=heads, batch=batch)
        return panel

    def _fail(self, network: str, batch: int, point: Point, message: str) -> None:
        self.failures.append(
            CrossoverFailure(
                network=network, batch=batch, engine=point.execution.engine, precision=point.execution.precision,
                density=point.density, message=message,
            )
        )  # fmt: skip


def choose_networks(wanted: Sequence[str]) -> dict[str, LiveRecipe]:
    """Recipes by name. Raises BenchmarkError."""
    unknown = [name for name in wanted if name not in LIVE]
    if unknown or not wanted:
        raise BenchmarkError(f"There is no network {' '.join(unknown)!r}. Choose from: {', '.join(LIVE)}.")
    return {name: LIVE[name] for name in wanted}
