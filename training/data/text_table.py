"""A user's own texts: a CSV file with the columns `text` and `label`, or JSON lines with these two fields."""

import csv
import hashlib
import json
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import numpy as np

from training.data.dataset import Dataset, Examples, content_sha256
from training.data.errors import DataError

FIELD_LIMIT = 2**31 - 1
"""Characters; the csv module stops at 131,072 unless told otherwise."""

Record = tuple[int, str, str]
"""Line number, text, label."""


def load_text_table(path: Path, test_path: Path | None) -> Dataset:
    """Load labelled texts from `path`, and test data from `test_path`; classes sorted by name.

    Raises DataError naming file and line.
    """
    digests: dict[str, str] = {}
    train = _read_records(path, "train", digests)
    labels = tuple(sorted({label for _, _, label in train}))
    if len(labels) < 2:
        raise DataError(f"{path} holds {len(labels)} class(es); a classifier needs at least two.")
    test = _read_records(test_path, "test", digests) if test_path else None
    for line, _, label in test or ():
        if label not in labels:
            raise DataError(f"{test_path}, line {line}: the label {label!r} does not occur in the training data.")
    return Dataset(
        name=path.stem,
        modality="text",
        labels=labels,
        train=_examples(train, labels),
        test=_examples(test, labels) if test else None,
        source=f"text table {path.name}" + (f" and {test_path.name}" if test_path else ""),
        sha256=content_sha256(digests),
    )


def _read_records(path: Path, part: str, digests: dict[str, str]) -> list[Record]:
    """All rows of one file; its hash goes into `digests`."""
    readers = {".csv": _csv_records, ".jsonl": _jsonl_records}
    if path.suffix.lower() not in readers:
        raise DataError(f"{path} is neither a .csv nor a .jsonl file.")
    try:
        raw = path.read_bytes()
        content = raw.decode("utf-8-sig")  # spreadsheet programs write a byte order mark
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}.") from error
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line}: not valid UTF-8; save the file as UTF-8.") from error
    records = []
    for line, text, label in readers[path.suffix.lower()](path, content):
        if not label.strip():
            raise DataError(f"{path}, line {line}: the label is empty.")
        if not any(character.isalpha() for character in text):
            raise DataError(f"{path}, line {line}: the text holds no word: {text[:60]!r}.")
        records.append((line, text, label.strip()))
    if not records:
        raise DataError(f"{path} holds no text.")
    digests[part] = hashlib.sha256(raw).hexdigest()
    return records


def _csv_records(path: Path, content: str) -> Iterator[Record]:
    """Rows of a CSV file; the line is the one where the row starts."""
    previous = csv.field_size_limit(FIELD_LIMIT)
    try:
        reader = csv.reader(StringIO(content, newline=""), strict=True)
        header = [name.strip() for name in next(reader, [])]
        if not {"text", "label"} <= set(header):
            raise DataError(f"{path}, line 1: the header must name the columns text and label, not {header}.")
        line = reader.line_num + 1
        for row in reader:
            if row:  # an empty line is no row
                if len(row) != len(header):
                    raise DataError(f"{path}, line {line}: {len(row)} fields, but the header has {len(header)}.")
                yield line, row[header.index("text")], row[header.index("label")]
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}.") from error
    finally:
        csv.field_size_limit(previous)


def _jsonl_records(path: Path, content: str) -> Iterator[Record]:
    """Rows of a JSON lines file. A label may be a whole number, as class indices often are."""
    for line, row in enumerate(content.split("\n"), start=1):
        if not row.strip():
            continue
        try:
            value = json.loads(row)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {line}: not JSON: {error}.") from error
        text, label = (value.get("text"), value.get("label")) if isinstance(value, dict) else (None, None)
        if isinstance(label, int) and not isinstance(label, bool):
            label = str(label)
        if not isinstance(text, str) or not isinstance(label, str):
            raise DataError(f'{path}, line {line}: not of the form {{"text": "...", "label": "..."}}: {row[:60]!r}.')
        yield line, text, label


def _examples(records: list[Record], labels: tuple[str, ...]) -> Examples:
    index = {label: target for target, label in enumerate(labels)}
    texts = tuple(text for _, text, _ in records)
    return Examples(texts, np.array([index[label] for _, _, label in records], dtype=np.int64))
