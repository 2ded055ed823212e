"""One line on stderr that says how far a long command is; a terminal sees it move, a log sees each phase once.

A package for progress bars would be the only one that the command line needs besides the runtime's own.
"""

import sys
from typing import TextIO

WIDTH = 24


class Progress:
    """A bar in one line on `stream` (None: stderr). `clear` it before anything else is printed."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._moves = self._stream.isatty()
        self._phase = ""
        self._shown = 0

    def show(self, phase: str, fraction: float, detail: str = "") -> None:
        """Show a phase, the fraction of it that is done and, on a terminal, a detail."""
        if not self._moves:
            if phase != self._phase:
                print(phase, file=self._stream, flush=True)
            self._phase = phase
            return
        done = round(WIDTH * min(1.0, fraction))
        line = f"{phase} [{'#' * done}{'.' * (WIDTH - done)}] {min(1.0, fraction):4.0%} {detail}"
        self._stream.write("\r" + line.ljust(self._shown))
        self._stream.flush()
        self._shown = len(line)

    def clear(self) -> None:
        """Remove the line."""
        if self._moves and self._shown:
            self._stream.write("\r" + " " * self._shown + "\r")
            self._stream.flush()
            self._shown = 0
