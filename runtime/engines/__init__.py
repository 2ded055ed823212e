"""Engines: one file per runtime, all behind the interface in `base`. Importing this package imports none of them.

Anyone may import from here; the engines import only `runtime` and the package they wrap.
"""

import importlib
from dataclasses import replace

from runtime.artifact import Artifact
from runtime.cpu import cpu
from runtime.engines.base import Engine, EngineOptions
from runtime.errors import EngineError, EngineNotInstalled, UnsupportedModel
from runtime.tuning.records import Tuning
from runtime.tuning.store import find_tuning

ENGINES = {
    "deepsparse": ("runtime.engines.deepsparse", "DeepSparseEngine"),
    "native": ("runtime.engines.native.engine", "NativeEngine"),
    "onnxruntime": ("runtime.engines.onnxruntime", "OnnxRuntimeEngine"),
    "openvino": ("runtime.engines.openvino", "OpenVinoEngine"),
}
"""Engine name -> module and class."""

AUTOMATIC = ("native", "deepsparse", "onnxruntime", "openvino")
"""Engines that `auto` tries, in this order."""

NATIVE_FLAGS = ("avx2", "fma")
"""CPU features with which the native engine has fast code of its own, and `auto` takes it; AVX-512 comes with both."""


def engine_class(name: str) -> type[Engine]:
    """Import the engine `name`. Raises EngineNotInstalled or, for an unknown name, EngineError."""
    if name not in ENGINES:
        raise EngineError(f"There is no engine {name!r}. Choose one of: auto, {', '.join(ENGINES)}.")
    module, class_name = ENGINES[name]
    found: type[Engine] = getattr(importlib.import_module(module), class_name)
    return found


def installed_engines() -> dict[str, type[Engine] | EngineNotInstalled]:
    """All engines by name: the class, or the error that says what to install."""
    found: dict[str, type[Engine] | EngineNotInstalled] = {}
    for name in ENGINES:
        try:
            found[name] = engine_class(name)
        except EngineNotInstalled as error:
            found[name] = error
    return found


def load_engine(artifact: Artifact, name: str, options: EngineOptions) -> Engine:
    """Load `artifact` with engine `name`.

    `auto` is what `tune` chose for this artifact, on this CPU model, with this core budget: that engine, with the
    cores, streams and precision that it was measured with. Without a tuning, or where its engine cannot be had (it is
    not installed, its licence not accepted, another precision asked for), `auto` is the first of AUTOMATIC that can be
    had: that is installed, allowed (native only where `native_obstacle` knows none, deepsparse only where
    `options.accept_deepsparse_licence` is set), offers the precision and supports the artifact. The choice is visible
    in `Engine.name`, and why it is no other one in `Engine.notes`. Any other error of an engine is an error: it is
    never replaced by another one. Raises EngineError.
    """
    if name != "auto":
        return engine_class(name)(artifact, options)
    what = artifact.manifest.name
    tuning = find_tuning(artifact, options.cores)
    remarks: list[str] = []
    if tuning is not None:
        setup = tuning.chosen.setup
        try:
            return _tuned(tuning, artifact, options)
        except (EngineNotInstalled, UnsupportedModel) as error:
            remarks.append(f"not as tuned for {what} ({setup}): {error}")
    obstacles: dict[str, str] = {}
    for candidate in AUTOMATIC:
        if candidate == "deepsparse" and not _deepsparse_allowed(options):
            continue
        try:
            engine = _candidate(candidate, artifact, options)(artifact, options)
        except (EngineNotInstalled, UnsupportedModel) as error:
            obstacles[candidate] = str(error)
            continue
        notes = (f"chosen instead of {other} for {what}: {why}" for other, why in obstacles.items())
        engine.notes = (*engine.notes, *remarks, *notes)
        return engine
    reasons = " ".join(f"{other}: {why}" for other, why in obstacles.items())
    raise UnsupportedModel(f"No engine that is installed runs {what} as asked. {reasons}")


def _tuned(tuning: Tuning, artifact: Artifact, options: EngineOptions) -> Engine:
    """Load what a tuning chose. Raises EngineNotInstalled or UnsupportedModel where it cannot be had."""
    setup = tuning.chosen.setup
    if setup.engine == "deepsparse" and not options.accept_deepsparse_licence:
        raise UnsupportedModel("the licence of DeepSparse is not accepted.")
    if options.precision not in (None, setup.precision):
        raise UnsupportedModel(f"{options.precision} is asked for.")
    if setup.engine not in ENGINES:
        raise EngineNotInstalled("this software has no such engine.")
    tuned = replace(options, cores=setup.cores, streams=setup.streams, precision=setup.precision)
    engine = engine_class(setup.engine)(artifact, tuned)
    what = artifact.manifest.name
    notes = [f"chosen for {what} by tune: {setup}"]
    measured = tuning.trial(setup).version
    if measured != engine.version:
        notes.append(f"tune measured version {measured} for {what}, now it is {engine.version}: tune again")
    engine.notes = (*engine.notes, *notes)
    return engine


def _candidate(name: str, artifact: Artifact, options: EngineOptions) -> type[Engine]:
    """Class of an engine that `auto` may try. Raises EngineNotInstalled or UnsupportedModel with the reason."""
    if name == "native" and (obstacle := native_obstacle()) is not None:
        raise UnsupportedModel(obstacle)
    found = engine_class(name)
    stored = artifact.manifest.precision
    asked = options.precision or stored
    if asked not in found.precisions.get(stored, ()):  # said here, as its own refusal would import every engine
        raise UnsupportedModel(f"it does not execute {stored} artifacts in {asked}.")
    return found


def native_obstacle() -> str | None:
    """Why `auto` takes another engine than native on this machine, whatever the artifact; None where it does not."""
    try:
        engine_class("native")
    except EngineNotInstalled as error:
        return str(error)
    model, flags = cpu()
    if not set(NATIVE_FLAGS) <= set(flags):
        return f"its fast code needs the CPU features {' and '.join(NATIVE_FLAGS)}; {model} is not known to have them."
    return None


def _deepsparse_allowed(options: EngineOptions) -> bool:
    """Whether its licence is accepted and it is there: its absence is not worth a note, it exists on few systems."""
    return options.accept_deepsparse_licence and not isinstance(installed_engines()["deepsparse"], EngineNotInstalled)
