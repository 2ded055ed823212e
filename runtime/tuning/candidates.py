"""What `tune` tries: every installed engine that offers a wanted precision, on all cores and on fewer."""

from collections.abc import Sequence

from runtime.artifact import Artifact
from runtime.engines import engine_class, installed_engines
from runtime.engines.base import Engine
from runtime.errors import EngineError, EngineNotInstalled
from runtime.tuning.records import Setup


def candidates(
    artifact: Artifact,
    *,
    cores: int,
    engines: Sequence[str],
    precisions: Sequence[str],
    accept_deepsparse_licence: bool,
) -> tuple[list[Setup], list[str]]:
    """Setups to try, the most promising of each engine first, and what is left out and why.

    `engines` empty: all that are installed; one that is named must be. `precisions` are those of execution. DeepSparse
    is tried only when its licence is accepted. Raises EngineError where nothing is left.
    """
    if cores < 1:
        raise EngineError(f"cores must be at least 1, not {cores}.")
    stored = artifact.manifest.precision
    setups, left_out = [], []
    for name, found in _classes(engines).items():
        if isinstance(found, EngineNotInstalled):
            left_out.append(f"{name}: {found}")
            continue
        if name == "deepsparse" and not accept_deepsparse_licence:
            left_out.append("deepsparse: its licence covers evaluation only; --accept-deepsparse-licence tries it")
            continue
        offered = found.precisions.get(stored, ())
        for precision in dict.fromkeys(precisions):
            if precision not in offered:
                what = ", ".join(offered) or "nothing"
                left_out.append(f"{name} {precision}: of artifacts stored as {stored} it executes {what}")
                continue
            setups += [
                Setup(engine=name, precision=precision, cores=used, streams=streams)
                for used, streams in shares(cores)
                if streams == 1 or found.parallel_calls
            ]
    if not setups:
        raise EngineError("There is nothing to try: " + "; ".join(left_out) + ".")
    return setups, left_out


def shares(cores: int) -> list[tuple[int, int]]:
    """How a budget of cores can be used: (cores, streams).

    All of them for one call, two calls at a time, a call on each; and one call on half of them or on one, because a
    small network on many cores only waits for its threads.
    """
    return list(dict.fromkeys([(cores, 1), (cores, min(2, cores)), (cores, cores), (max(1, cores // 2), 1), (1, 1)]))


def _classes(names: Sequence[str]) -> dict[str, type[Engine] | EngineNotInstalled]:
    return {name: engine_class(name) for name in dict.fromkeys(names)} if names else installed_engines()
