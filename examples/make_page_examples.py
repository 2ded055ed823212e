"""Packs the examples of this folder into one file, which the server's page offers one click away.

.venv/bin/python examples/make_page_examples.py
"""

import base64
import json
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parent
TARGET = EXAMPLES.parent / "server" / "page" / "examples.json"


def page_examples(folder: Path) -> bytes:
    """JSON: by model a list of examples, each with its name, its true label and the text, or the image as base64."""
    packed: dict[str, list[dict[str, str]]] = {}
    for name, truth in json.loads((folder / "expected.json").read_text()).items():
        file = folder / name
        content = (
            {"text": file.read_text(encoding="utf-8").strip()}
            if file.suffix == ".txt"
            else {"image": base64.b64encode(file.read_bytes()).decode()}
        )
        packed.setdefault(truth["model"], []).append({"name": file.stem, "label": truth["label"], **content})
    return (json.dumps(packed, indent=1) + "\n").encode()


if __name__ == "__main__":
    (Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET).write_bytes(page_examples(EXAMPLES))
