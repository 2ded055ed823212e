"""The table of docs/native-engine.md, made from results/native.json alone.

python benchmarks/native_tables.py            # writes it into the document, between the two marker lines
python benchmarks/native_tables.py --check    # fails when the document says something else
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from documents import put_between
from environment import REPOSITORY
from native_report import markdown
from native_results import NativeResults

COMMAND = "python benchmarks/native_tables.py"
BEGIN = f"<!-- figures: made by `{COMMAND}` -->"
END = "<!-- end of figures -->"
RESULTS = REPOSITORY / "benchmarks" / "results" / "native.json"
DOCUMENT = REPOSITORY / "docs" / "native-engine.md"


def main(arguments: Sequence[str], *, results: Path = RESULTS, document: Path = DOCUMENT) -> int:
    """Write or check the document; returns the exit status."""
    measured = NativeResults.model_validate_json(results.read_bytes())
    return put_between(document, BEGIN, END, markdown(measured), check="--check" in arguments, command=COMMAND)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
