"""CSV and JSON lines of text and label."""

import csv
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.data import DataConfig, DataError, Dataset, load_dataset

TEXTS = st.text(max_size=50).map(lambda text: f"a{text}")
ROWS = st.lists(st.tuples(TEXTS, st.sampled_from(["cat", "dog", "Kuh, groß"])), min_size=2).filter(
    lambda rows: len({label for _, label in rows}) > 1
)


def load(path: Path, test_path: Path | None = None) -> Dataset:
    return load_dataset(DataConfig(source="text-table", path=path, test_path=test_path))


def rows_of(dataset: Dataset) -> list[tuple[str, str]]:
    texts = [text for text in dataset.train.inputs if isinstance(text, str)]
    return list(zip(texts, [dataset.labels[target] for target in dataset.train.targets], strict=True))


@settings(max_examples=50, deadline=None)
@given(rows=ROWS, columns=st.permutations(["text", "label", "other"]), mark=st.booleans())
def test_every_text_survives_csv_and_jsonl(
    rows: list[tuple[str, str]], columns: list[str], mark: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("tables")
    records = [{"text": text, "label": label, "other": "1"} for text, label in rows]
    with (folder / "t.csv").open("w", encoding="utf-8-sig" if mark else "utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(records)
    lines = "".join(json.dumps(record, ensure_ascii=mark) + "\n" for record in records)
    (folder / "t.jsonl").write_bytes(lines.encode())
    for name in ("t.csv", "t.jsonl"):
        dataset = load(folder / name)
        assert rows_of(dataset) == rows
        assert dataset.labels == tuple(sorted({label for _, label in rows}))
        assert (dataset.test, dataset.source) == (None, f"text table {name}")


def test_a_field_may_be_longer_than_the_csv_modules_limit(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    (tmp_path / "t.csv").write_text(f"text,label\n{'a' * 200_000},x\nb,y\n")
    assert len(load(tmp_path / "t.csv").train.inputs[0]) == 200_000
    assert csv.field_size_limit() == limit


def test_test_data_and_whole_number_labels(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one", "label": 10}\n\n{"text": "two", "label": "b"}\n')
    (tmp_path / "b.csv").write_text("label,text\r\nb,three\r\n")
    dataset = load(tmp_path / "a.jsonl", tmp_path / "b.csv")
    assert dataset.labels == ("10", "b")
    assert dataset.test is not None
    assert (dataset.test.inputs, dataset.test.targets.tolist()) == (("three",), [1])
    assert dataset.source == "text table a.jsonl and b.csv"
    (tmp_path / "b.csv").write_text("label,text\nb,three\nc,four\n")
    with pytest.raises(DataError, match=r"b\.csv, line 3: the label 'c' does not occur in the training data"):
        load(tmp_path / "a.jsonl", tmp_path / "b.csv")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"", "line 1: the header must name the columns text and label, not []"),
        ("t.csv", b"txt,label\na,b\n", "line 1: the header must name the columns text and label"),
        ("t.csv", b"text,label\n", "holds no text"),
        ("t.csv", b"text,label\na,x\n", "holds 1 class(es)"),
        ("t.csv", b"text,label\na,x\nb\n", "line 3: 1 fields, but the header has 2"),
        ("t.csv", b'text,label\n"a\nb",x\nc,y,z\n', "line 4: 3 fields, but the header has 2"),
        ("t.csv", b'text,label\na,x\n"b,y\n', "line 3: unexpected end of data"),
        ("t.csv", b"text,label\na,x\n12 !,y\n", "line 3: the text holds no word: '12 !'"),
        ("t.csv", b"text,label\na,x\nb, \n", "line 3: the label is empty"),
        ("t.csv", b"text,label\na,x\n\xff,y\n", "line 3: not valid UTF-8"),
        ("t.jsonl", b'{"text": "a", "label": "x"}\n{"text": "b"\n', "line 2: not JSON"),
        ("t.jsonl", b'{"text": "a"}\n', "line 1: not of the form"),
        ("t.jsonl", b'{"text": "a", "label": true}\n', "line 1: not of the form"),
        ("t.jsonl", b"[1]\n", "line 1: not of the form"),
        ("t.txt", b"a", "is neither a .csv nor a .jsonl file"),
    ],
)
def test_a_bad_file_is_refused_with_its_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        load(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert message in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.csv cannot be read"):
        load(tmp_path / "none.csv")
