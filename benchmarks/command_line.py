"""How benchmark scripts read their options and end: one line for what a user can mend, no traceback."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cyclopts import App, Parameter

from runtime.errors import NeurotrailsError

Several = Parameter(consume_multiple=True, negative=())
"""An option with several values."""
Switch = Parameter(negative=())
"""An option without a value."""


def run_command(command: Callable[..., Any], arguments: list[str] | None) -> int:
    """Run a script's command with `arguments` (None: those of the process); returns the exit status."""
    script = Path(command.__code__.co_filename).name
    app = App(name=script, default_command=command, result_action="return_none", version_flags=[])
    try:
        app(sys.argv[1:] if arguments is None else arguments)
    except NeurotrailsError as error:
        print(f"{script}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0
