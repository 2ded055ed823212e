"""Tables in documents: what stands between two marker lines is made from measured files, never typed."""

import sys
from pathlib import Path

from runtime.errors import NeurotrailsError


class MarkerMissing(NeurotrailsError):  # noqa: N818 - reads as a statement
    """A document lacks the lines between which a table belongs."""


def put_between(document: Path, begin: str, end: str, content: str, *, check: bool, command: str) -> int:
    """Write `content` between the lines `begin` and `end` of a document; returns the exit status.

    With `check` nothing is written, and the status is 1 where the document says something else. Raises MarkerMissing.
    """
    text = document.read_text(encoding="utf-8")
    before, found_begin, rest = text.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise MarkerMissing(f"{document} lacks the lines {begin!r} and {end!r}. Put them where the table belongs.")
    wanted = f"{before}{begin}\n{content}\n{end}{after}"
    if check:
        if text != wanted:
            print(f"{document.name} and the measured files differ; run {command}", file=sys.stderr)
        return int(text != wanted)
    document.write_text(wanted, encoding="utf-8")
    return 0
