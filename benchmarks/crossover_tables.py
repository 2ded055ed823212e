"""The tables of docs/crossover.md, made from results/crossover.json alone.

python benchmarks/crossover_tables.py            # writes them into the document, between its marker lines
python benchmarks/crossover_tables.py --check    # fails when the document says something else
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from crossover_report import markdown
from crossover_results import CrossoverResults
from documents import put_between
from environment import REPOSITORY

COMMAND = "python benchmarks/crossover_tables.py"
BEGIN = f"<!-- figures: made by `{COMMAND}` -->"
END = "<!-- end of figures -->"
RESULTS = REPOSITORY / "benchmarks" / "results" / "crossover.json"
DOCUMENT = REPOSITORY / "docs" / "crossover.md"


def main(arguments: Sequence[str], *, results: Path = RESULTS, document: Path = DOCUMENT) -> int:
    """Write or check the document; returns the exit status."""
    measured = CrossoverResults.model_validate_json(results.read_bytes())
    return put_between(document, BEGIN, END, markdown(measured), check="--check" in arguments, command=COMMAND)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
