"""The process that opens hostile artifacts: it may crash or hang, and the tests only watch it.

python -m tests.runtime.fuzz_worker SCRATCH [ENGINE ...]

Reads folders of artifacts from stdin, one in a line; writes one JSON object for each: `outcome` is `passed`, the name
of an error of this project, or `unnamed`, with the traceback as `details`; `read` lists files that were opened outside
of the artifact, of Python and of SCRATCH.
"""

import json
import os
import resource
import sys
import traceback
from pathlib import Path

MEMORY = 24 * 2**30
"""Address space: what engines reserve for themselves, and a few GiB."""
CPU_SECONDS = 1800


def main(scratch: str, engines: list[str]) -> None:
    """Answer until stdin ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from runtime.engines import engine_class
    from tests.runtime.fuzz_case import run_case

    for name in engines:
        engine_class(name)  # what their packages read when they are imported is no artifact's doing
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what engines print is no answer
    sources = str(Path(__file__).parents[2])
    allowed = [*{sys.prefix, sys.base_prefix, *sys.path} - {""}, sources, scratch, "/proc", "/sys", "/dev", "/usr/lib"]
    opened: list[str] = []

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str | bytes):
            opened.append(os.path.realpath(os.fsdecode(arguments[0])))

    sys.addaudithook(watch)
    roots = [os.path.realpath(root) for root in allowed]
    for line in sys.stdin:
        folder = line.rstrip("\n")
        opened.clear()
        outcome, details = "passed", ""
        try:
            from runtime.errors import NeurotrailsError

            try:
                run_case(Path(folder), engines)
            except NeurotrailsError as error:
                outcome, details = type(error).__name__, str(error)
        except BaseException:
            outcome, details = "unnamed", traceback.format_exc()
        inside = [os.path.realpath(folder), *roots]
        read = sorted({path for path in opened if not any(Path(path).is_relative_to(root) for root in inside)})
        answers.write(json.dumps({"outcome": outcome, "details": details[-3000:], "read": read}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
