"""Engines: one file per runtime, all behind the interface in `base`. Importing this package imports none of them.

Anyone may import from here; the engines import only `runtime` and the package they wrap.
"""

import importlib

from runtime.artifact import Artifact
from runtime.engines.base import Engine, EngineOptions
from runtime.errors import EngineError, EngineNotInstalled
from runtime.graph import load_graph

ENGINES = {
    "deepsparse": ("runtime.engines.deepsparse", "DeepSparseEngine"),
    "native": ("runtime.engines.native.engine", "NativeEngine"),
    "onnxruntime": ("runtime.engines.onnxruntime", "OnnxRuntimeEngine"),
}
"""Engine name -> module and class."""


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

    `auto` is onnxruntime, or deepsparse where it is installed and `options.accept_deepsparse_licence` is set. The
    choice is visible in `Engine.name`; an engine that fails to load is an error, never replaced by another one.
    """
    if name == "auto":
        accepted = options.accept_deepsparse_licence and not isinstance(
            installed_engines()["deepsparse"], EngineNotInstalled
        )
        name = "deepsparse" if accepted else "onnxruntime"
    chosen = engine_class(name)
    check_graphs(artifact)
    return chosen(artifact, options)


def check_graphs(artifact: Artifact) -> None:
    """Raise ArtifactError unless every graph is safe to hand to an engine; see `runtime.graph`."""
    for stage in artifact.manifest.stages:
        load_graph(artifact.path(stage.file))
