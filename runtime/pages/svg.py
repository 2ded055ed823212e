"""Shapes of inline SVG; all text is escaped.

Colours are classes of the style sheet, so that drawings follow light and dark.
"""

from collections.abc import Sequence

from markupsafe import Markup


def text(kind: str, x: float | str, y: float | str, content: str, anchor: str = "start", hint: str = "") -> Markup:
    """Write `content` with its middle at height y; `hint` is shown on hovering."""
    title = Markup("<title>{}</title>").format(hint) if hint else ""
    return Markup('<text class="{}" x="{}" y="{}" dy="0.32em" text-anchor="{}">{}{}</text>').format(
        kind, x, y, anchor, content, title
    )


def segment(kind: str, x1: float | str, x2: float | str, y1: float | str, y2: float | str) -> Markup:
    """Draw a straight line; mind the order of the ends: both x, then both y."""
    return Markup('<line class="{}" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(kind, x1, x2, y1, y2)


def rectangle(
    kind: str, left: float, top: float, right: float, bottom: float, hint: str, opacity: float | None = None
) -> Markup:
    """Draw a box, 0.8 high at least, which says `hint` on hovering."""
    faint = "" if opacity is None else Markup(' fill-opacity="{:.3f}"').format(opacity)
    return Markup(
        '<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"{}><title>{}</title></rect>'
    ).format(kind, left, top, right - left, max(bottom - top, 0.8), faint, hint)


def drawing(name: str, width: float, height: float, parts: Sequence[Markup]) -> Markup:
    """Put parts into one SVG element; `name` is what a screen reader says."""
    return Markup('<svg role="img" aria-label="{}" viewBox="0 0 {} {}">{}</svg>').format(
        name, width, height, Markup("").join(parts)
    )


def shortened(name: str, most: int) -> str:
    """Cut the middle out of a name of more than `most` characters."""
    return name if len(name) <= most else f"{name[: most // 2 - 1]}…{name[-(most // 2) :]}"
