"""Where settings come from: flags, then the environment, then a YAML file, then the defaults. Unknown names are errors.

configured = load_settings({"port": 9000}, Path("server.yaml"))
print(configured.as_yaml())
"""

import difflib
import inspect
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Optional

import yaml
from cyclopts import Parameter
from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource

from server.errors import StartupError
from server.settings import Settings

PREFIX = "NEUROTRAILS_"
CONFIG = "NEUROTRAILS_CONFIG"
"""Environment variable that names the YAML file."""
OTHERS = {CONFIG, "NEUROTRAILS_CACHE", "NEUROTRAILS_CLIENT_KEY", "NEUROTRAILS_DATA", "NEUROTRAILS_SPARSEML"}
"""Variables with our prefix that are no settings of the server."""


@dataclass(frozen=True)
class Configured:
    """Settings, and where each of them came from."""

    settings: Settings
    sources: Mapping[str, str]
    """Name of a setting -> its flag, its environment variable, the path of the file, or `default`."""

    def as_yaml(self) -> str:
        """All settings as a YAML file that could be given back, with their sources as comments, secrets masked."""
        values = self.settings.model_dump(mode="json")
        return "".join(f"{name}: {_in_yaml(value)}  # {self.sources[name]}\n" for name, value in values.items())


def load_settings(flags: Mapping[str, Any], config: Path | None = None) -> Configured:
    """Put the settings together: `flags` win over the environment, that over the file, that over the defaults.

    `config` is the YAML file; None: what NEUROTRAILS_CONFIG names, if anything. Raises StartupError naming what is
    wrong: a name that is no setting with the nearest one, a value with the setting that does not take it.
    """
    names = Settings.model_fields
    _require_known("setting", flags, names)
    variables = {name.upper() for name in os.environ if name.upper().startswith(PREFIX)} - OTHERS
    _require_known("environment variable", variables, [f"{PREFIX}{name.upper()}" for name in names])
    path = config or (Path(os.environ[CONFIG]) if os.environ.get(CONFIG) else None)
    written = {} if path is None else _read_file(path)
    _require_known(f"setting in {str(path)!r}", written, names)

    class FromFile(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, InitSettingsSource(settings_cls, written)

    sources = {name: _source(name, flags, variables, written, path) for name in names}
    try:
        settings = FromFile(**flags)
    except ValidationError as error:
        problems = "; ".join(_problem(dict(one), sources) for one in error.errors())
        raise StartupError(f"The settings are wrong: {problems}.") from None  # the cause would show secrets
    return Configured(settings, sources)


def flag_parameters() -> list[inspect.Parameter]:
    """One keyword-only parameter for each setting but the secret ones, for a command to take; None: not given."""
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[Optional[field.annotation], Parameter(help=_help(field), consume_multiple=True)],  # noqa: UP045
        )
        for name, field in Settings.model_fields.items()
        if not is_secret(field)
    ]


def is_secret(field: FieldInfo) -> bool:
    """Whether the values of a setting must be shown to nobody. A flag would show them in the list of processes."""
    return SecretStr.__name__ in str(field.annotation)


def shown_default(field: FieldInfo) -> str:
    """The default of a setting as YAML."""
    value = field.get_default(call_default_factory=True)
    return _in_yaml([_plain(each) for each in value] if isinstance(value, tuple) else _plain(value))


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _in_yaml(value: Any) -> str:
    """A value on one line."""
    line = str(yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=math.inf))
    return line.removesuffix("...\n").strip()


def _help(field: FieldInfo) -> str:
    return f"{' '.join((field.description or '').split())} Default: {shown_default(field)}."


def _require_known(kind: str, given: Iterable[str], known: Iterable[str]) -> None:
    known = sorted(known)
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.0)
            raise StartupError(f"There is no {kind} {str(name)[:100]!r}; the nearest is {near[0]}.")


def _read_file(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except (OSError, ValueError) as error:
        raise StartupError(f"The settings in {str(path)!r} cannot be read: {error}") from error
    except yaml.YAMLError as error:  # its text would repeat a line of the file, and so perhaps a key
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f" in line {mark.line + 1}"
        raise StartupError(f"The settings in {str(path)!r} cannot be read: they are no YAML{line}.") from None
    if tree is None or content is None:
        return {}
    if not isinstance(content, dict):
        raise StartupError(f"{str(path)!r} must hold settings, as in `port: 8000`, not a {type(content).__name__}.")
    names = [str(name.value) for name, _ in tree.value]
    for name in names:
        if names.count(name) > 1:
            raise StartupError(f"{name[:100]!r} stands {names.count(name)} times in {str(path)!r}.")
    return content


def _source(
    name: str, flags: Mapping[str, Any], variables: set[str], written: Mapping[str, Any], path: Path | None
) -> str:
    if name in flags:
        return f"--{name.replace('_', '-')}"
    if f"{PREFIX}{name.upper()}" in variables:
        return f"{PREFIX}{name.upper()}"
    return str(path) if name in written else "default"


def _problem(error: Mapping[str, Any], sources: Mapping[str, str]) -> str:
    """One sentence about one wrong value; the value of a secret is not repeated."""
    where = [str(part) for part in error["loc"]]
    message = str(error["msg"]).removeprefix("Value error, ")
    if not where:
        return message
    source = f" ({sources[where[0]]})" if where[0] in sources else ""
    known = Settings.model_fields.get(where[0])
    value = "" if known is None or is_secret(known) else f", not {error['input']!r}"
    return f"{'.'.join(where)}{source}: {message}{value}"
