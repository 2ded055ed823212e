"""Divides the cores of an engine among its workers."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from runtime.errors import EngineError


@dataclass(frozen=True)
class Slice:
    """What one worker may use."""

    cpus: tuple[int, ...]
    """Numbers of the CPUs that it is pinned to."""
    cores: int
    """Cores that its engine computes on."""


def allowed_cpus() -> tuple[int, ...]:
    """Numbers of the CPUs that this process may run on."""
    return tuple(sorted(os.sched_getaffinity(0)))


def slices(cores: int, workers: int, cpus: Sequence[int]) -> list[Slice]:
    """Divide `cores` and `cpus` evenly among `workers`; the first ones get one more each where it does not come out.

    All the CPUs are divided, not only as many as there are cores: under a quota on CPU time neighbours that all chose
    the same few would crowd there. Raises EngineError for fewer cores or CPUs than workers.
    """
    if workers < 1:
        raise EngineError(f"There must be at least 1 worker, not {workers}.")
    if min(cores, len(cpus)) < workers:
        raise EngineError(
            f"{workers} workers need as many cores, but the engine has {cores} and this process may run on "
            f"{len(cpus)} CPU(s). Ask for fewer workers."
        )
    return [Slice(tuple(_share(cpus, workers, one)), len(_share(range(cores), workers, one))) for one in range(workers)]


def _share(items: Sequence[int], parts: int, part: int) -> Sequence[int]:
    size, more = divmod(len(items), parts)
    start = part * size + min(part, more)
    return items[start : start + size + (part < more)]
