"""Networks of the user's own, by name: a Python file registers builders, the command line names the file.

    # my_networks.py                    neurotrails train recipe.yaml --run runs/mine --networks my_networks.py
    @image_network("my-net")
    def my_net(*, classes: int, channels: int, width: int = 32) -> Parts: ...

A recipe or a checkpoint only ever names a network (`network: {kind: custom, name: my-net}`). It never names code: a
checkpoint that someone sent runs nothing but what its receiver passes to `--networks`.
"""

import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from traceback import extract_tb
from typing import Literal, TypeVar

from training.errors import ConfigError
from training.models.multihead import Parts

Builder = TypeVar("Builder", bound=Callable[..., Parts])
Modality = Literal["image", "text"]

INPUTS: dict[Modality, tuple[str, ...]] = {"image": ("image",), "text": ("input_ids", "attention_mask")}
"""What the preprocessing of each modality gives to a network, in order."""


@dataclass(frozen=True)
class Registered:
    """A network that a recipe can name."""

    name: str
    modality: Modality
    builder: Callable[..., Parts]

    @property
    def source(self) -> str:
        """File that registered it."""
        return inspect.getfile(self.builder)


_REGISTERED: dict[str, Registered] = {}


def image_network(name: str) -> Callable[[Builder], Builder]:
    """Register a builder of image networks: (*, classes, channels, **arguments) -> Parts with fresh weights.

    `channels` are those of the images; `arguments` come from the recipe. The stem reads float32 [B, C, height, width].
    """
    return _registrar(name, "image")


def text_network(name: str) -> Callable[[Builder], Builder]:
    """Register a builder of text networks: (*, classes, vocabulary, max_tokens, **arguments) -> Parts.

    Its parts have `inputs=("input_ids", "attention_mask")`: the stem reads two int64 [B, T]; token 0 is padding, where
    the mask is 0. T is at most `max_tokens`.
    """
    return _registrar(name, "text")


def _registrar(name: str, modality: Modality) -> Callable[[Builder], Builder]:
    def register(builder: Builder) -> Builder:
        new, old = Registered(name, modality, builder), _REGISTERED.get(name)
        if old is not None and old.builder is not builder:
            raise ConfigError(
                f"The network {name!r} is registered twice, in {old.source} and in {new.source}; rename one."
            )
        _REGISTERED[name] = new
        return builder

    return register


def load_networks(paths: Sequence[str | Path]) -> None:
    """Run Python files that register networks; a file that was loaded before is loaded anew. Raises ConfigError.

    A file may import what is installed or on PYTHONPATH.
    """
    for path in paths:
        file = Path(path).resolve()
        if not file.is_file():
            raise ConfigError(f"--networks {path}: there is no such file.")
        module_name = f"networks_{sha256(str(file).encode()).hexdigest()[:16]}"
        specification = importlib.util.spec_from_file_location(module_name, file)
        if specification is None or specification.loader is None:
            raise ConfigError(f"--networks {path}: this is not a Python file; its name must end in .py.")
        for name in [name for name, entry in _REGISTERED.items() if entry.builder.__module__ == module_name]:
            del _REGISTERED[name]
        module = importlib.util.module_from_spec(specification)
        sys.modules[module_name] = module  # dataclasses and typing look their module up there
        try:
            specification.loader.exec_module(module)
        except ConfigError:
            raise
        except Exception as error:
            lines = [frame.lineno for frame in extract_tb(error.__traceback__) if frame.filename == str(file)]
            where = f" in line {lines[-1]}" if lines else ""
            raise ConfigError(f"--networks {path}: {type(error).__name__}{where}: {error}") from error
        if not any(entry.builder.__module__ == module_name for entry in _REGISTERED.values()):
            raise ConfigError(
                f"--networks {path}: the file registers no network. Decorate a function that returns Parts with "
                '@image_network("my-net") or @text_network("my-net").'
            )


def custom_parts(name: str, modality: Modality, given: Mapping[str, int], arguments: Mapping[str, object]) -> Parts:
    """Build a registered network from what the run gives and the arguments of the recipe. Raises ConfigError."""
    entry = _REGISTERED.get(name)
    if entry is None:
        known = f"; registered are {', '.join(sorted(_REGISTERED))}" if _REGISTERED else ""
        raise ConfigError(
            f"The network {name!r} is not registered{known}. Pass the Python file that registers it: "
            "--networks my_networks.py"
        )
    if entry.modality != modality:
        raise ConfigError(
            f"The network {name!r} reads {entry.modality}s, the recipe says {modality}s: give network.text "
            "(vocabulary and lengths) for a network that reads texts, and only for such a one."
        )
    for key in given:
        if key in arguments:
            raise ConfigError(f"network.arguments: {key} comes from the data and the recipe's other fields; remove it.")
    try:
        bound = inspect.signature(entry.builder).bind(**given, **arguments)
    except TypeError as error:
        raise ConfigError(
            f"network.arguments do not fit {name}{inspect.signature(entry.builder)} in {entry.source}, which also gets "
            f"{', '.join(given)}: {error}"
        ) from error
    parts = entry.builder(*bound.args, **bound.kwargs)
    if not isinstance(parts, Parts):
        raise ConfigError(f"The builder of {name!r} in {entry.source} returned {type(parts).__name__}, not Parts.")
    if parts.inputs != INPUTS[modality]:
        raise ConfigError(
            f"The parts of {name!r} in {entry.source} have inputs={parts.inputs!r}; a network that reads {modality}s "
            f"has inputs={INPUTS[modality]!r}."
        )
    return parts
