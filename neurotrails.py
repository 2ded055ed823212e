"""The command line: a table from verb to function. Only the chosen verb's module is imported.

neurotrails train recipes/fashion-mnist.yaml --run runs/fashion-mnist
neurotrails serve
"""

import importlib
import os
import select
import signal
import sys
from importlib.metadata import version

from cyclopts import App, CycloptsError

from runtime.errors import NeurotrailsError

VERBS = {
    "train": ("training.train", "train", "train a sparse multi-head network from a recipe"),
    "evaluate": ("training.evaluate", "evaluate", "measure a checkpoint on held-out data"),
    "report": ("training.report.report", "report", "write one HTML page about a run"),
    "export": ("export.export", "export", "turn a checkpoint into an artifact, an artifact into one ONNX file"),
    "verify": ("runtime.verify", "verify", "check an artifact: hashes, schema, graphs, parity of every engine"),
    "inspect": ("runtime.inspection.inspect", "inspect", "show what an artifact holds"),
    "tune": ("runtime.tuning.tune", "tune", "measure which engine runs an artifact best here; auto then takes it"),
    "predict": ("runtime.predict", "predict", "predict images or texts without a server"),
    "ask": ("server.client.ask", "ask", "ask a running server to predict images or texts"),
    "serve": ("server.app", "serve", "serve artifacts over HTTP"),
    "doctor": ("runtime.doctor.doctor", "doctor", "show cores, engines and what is missing"),
}
"""Verb -> module, function, what it does."""

EXTRAS = {"training": "train", "server": "serve"}
"""Package -> the extra that holds what it needs."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0 done, 1 a clear error, 2 wrong usage."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"neurotrails {version('neurotrails')}")
        return 0
    if arguments[0] not in VERBS:
        print(f"There is no verb {arguments[0]!r}.\n\n{usage()}", file=sys.stderr)
        return 2
    module, function, _ = VERBS[arguments[0]]
    try:
        command = getattr(importlib.import_module(module), function)
    except ModuleNotFoundError as error:
        extra = EXTRAS.get(module.split(".")[0])
        if extra is None or (error.name or "").split(".")[0] in (*EXTRAS, "runtime"):
            raise
        print(f"{arguments[0]} needs {error.name}: pip install 'neurotrails[{extra}]'", file=sys.stderr)
        return 1
    try:
        app = App(
            name=f"neurotrails {arguments[0]}", default_command=command, result_action="return_none", version_flags=[]
        )
        app(arguments[1:], exit_on_error=False)
        sys.stdout.flush()
    except CycloptsError:  # it has printed what is wrong
        return 2
    except NeurotrailsError as error:
        print(f"neurotrails {arguments[0]}: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        if _output_is_read():
            raise
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0


def _output_is_read() -> bool:
    """Whether standard output still has a reader, unlike before `| head` that has seen enough; else write no more."""
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)
    if not output.poll(0):  # no error
        return True
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush when the interpreter ends
    return False


def usage() -> str:
    """What `neurotrails --help` prints."""
    lines = [f"  {verb:10} {summary}" for verb, (_, _, summary) in VERBS.items()]
    return "\n".join(["usage: neurotrails VERB ...", "", *lines, "", "neurotrails VERB --help tells the options."])


if __name__ == "__main__":
    sys.exit(main())
