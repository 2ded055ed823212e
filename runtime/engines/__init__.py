"""Engines: one file per runtime, all behind the interface in `base`. Importing this package imports none of them.

Anyone may import from here; the engines import only `runtime` and the package they wrap.
"""

import importlib

from runtime.artifact import Artifact
from runtime.cpu import cpu
from runtime.engines.base import Engine, EngineOptions
from runtime.errors import EngineError, EngineNotInstalled, UnsupportedModel

ENGINES = {
    "deepsparse": ("runtime.engines.deepsparse", "DeepSparseEngine"),
    "native": ("runtime.engines.native.engine", "NativeEngine"),
    "onnxruntime": ("runtime.engines.onnxruntime", "OnnxRuntimeEngine"),
}
"""Engine name -> module and class."""

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

    `auto` is native where `native_obstacle` knows none and the native engine supports the artifact; else deepsparse
    where it is installed and `options.accept_deepsparse_licence` is set; else onnxruntime. The choice is visible in
    `Engine.name`, and why it is not native in `Engine.notes`. Any other error of an engine is an error: it is never
    replaced by another one.
    """
    if name != "auto":
        return engine_class(name)(artifact, options)
    obstacle = native_obstacle()
    if obstacle is None:
        try:
            return engine_class("native")(artifact, options)
        except (EngineNotInstalled, UnsupportedModel) as error:
            obstacle = str(error)
    engine = engine_class(_second_choice(options))(artifact, options)
    engine.notes = (*engine.notes, f"chosen instead of native for {artifact.manifest.name}: {obstacle}")
    return engine


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


def _second_choice(options: EngineOptions) -> str:
    if not options.accept_deepsparse_licence:
        return "onnxruntime"
    return "onnxruntime" if isinstance(installed_engines()["deepsparse"], EngineNotInstalled) else "deepsparse"
