"""What pages are made of, as typed objects, and how a template becomes HTML. Templates decide only how things look."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup


@dataclass(frozen=True)
class Table:
    """The numbers behind a figure, as text."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Figure:
    """A chart with what it says."""

    title: str
    chart: Markup
    caption: str
    legend: Sequence[tuple[str, int, bool]] = ()
    """Label and look of each line, and whether it is one and not single points; empty for one line."""
    table: Table | None = None


def render_page(template: Path, **content: object) -> str:
    """Fill a template with `content`: the same bytes for the same content, and all text escaped.

    A template extends `base.html.j2` and takes its macros from `parts.html.j2`, both of this package.
    """
    environment = Environment(
        loader=FileSystemLoader([template.parent, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template.name).render(**content)
