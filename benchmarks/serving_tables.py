"""The figures of docs/serving-benchmark.md, made from results/serving.json alone.

python benchmarks/serving_tables.py            # writes them into the document, between their marker lines
python benchmarks/serving_tables.py --check    # fails when the document says something else
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from documents import put_between
from environment import REPOSITORY
from serving_report import markdown
from serving_results import ServingResults

COMMAND = "python benchmarks/serving_tables.py"
BEGIN = f"<!-- figures: made by `{COMMAND}` -->"
END = "<!-- end of figures -->"
RESULTS = REPOSITORY / "benchmarks" / "results" / "serving.json"
DOCUMENT = REPOSITORY / "docs" / "serving-benchmark.md"


def main(arguments: Sequence[str], *, results: Path = RESULTS, document: Path = DOCUMENT) -> int:
    """Write or check the document; returns the exit status."""
    measured = ServingResults.model_validate_json(results.read_bytes())
    return put_between(document, BEGIN, END, markdown(measured), check="--check" in arguments, command=COMMAND)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
