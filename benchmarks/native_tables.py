"""The tables of docs/native-engine.md, made from results/native.json and results/native_log.json alone.

python benchmarks/native_tables.py            # writes them into the document, between their marker lines
python benchmarks/native_tables.py --check    # fails when the document says something else
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from documents import put_between
from environment import REPOSITORY
from latency_results import Record
from native_report import markdown
from native_results import NativeResults

COMMAND = "python benchmarks/native_tables.py"
BEGIN = f"<!-- figures: made by `{COMMAND}` -->"
END = "<!-- end of figures -->"
LOG_BEGIN = f"<!-- log: made by `{COMMAND}` -->"
LOG_END = "<!-- end of log -->"
RESULTS = REPOSITORY / "benchmarks" / "results" / "native.json"
LOG = REPOSITORY / "benchmarks" / "results" / "native_log.json"
DOCUMENT = REPOSITORY / "docs" / "native-engine.md"


class LogEntry(Record):
    """Something that was tried."""

    what: str
    on: str
    before: float
    after: float
    unit: str
    kept: bool
    why: str


class Log(Record):
    """What was tried while the engine was written."""

    benchmark: str
    measured: str
    how: str
    machine: dict[str, str | dict[str, float]]
    entries: tuple[LogEntry, ...]


def log_table(log: Log) -> str:
    """Everything that was tried, as Markdown."""
    lines = ["| tried | on | before | after | ratio | kept | why |", "|---|---|---|---|---|---|---|"]
    lines += [
        f"| {entry.what} | {entry.on} | {entry.before:g} {entry.unit} | {entry.after:g} {entry.unit} | "
        f"{entry.after / entry.before:.2f} | {'yes' if entry.kept else 'no'} | {entry.why} |"
        for entry in log.entries
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str], *, results: Path = RESULTS, log: Path = LOG, document: Path = DOCUMENT) -> int:
    """Write or check the document; returns the exit status."""
    check = "--check" in arguments
    measured = NativeResults.model_validate_json(results.read_bytes())
    tried = Log.model_validate_json(log.read_bytes())
    return max(
        put_between(document, BEGIN, END, markdown(measured), check=check, command=COMMAND),
        put_between(document, LOG_BEGIN, LOG_END, log_table(tried), check=check, command=COMMAND),
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
