"""Tokenizers that lie, panic or fail are named errors."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime import tokenizer_file
from runtime.artifact import Artifact
from runtime.errors import ArtifactError
from runtime.tokenizer_file import MAX_TOKENIZER_BYTES, encode, open_tokenizer

GOOD = json.loads(Path("models/newsgroups/tokenizer.json").read_bytes())


def _write(tmp_path: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    document = json.loads(json.dumps(GOOD))
    change(document)
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    return tmp_path / "tokenizer.json"


def _as_it_is(document: dict[str, Any]) -> None:
    """Change nothing."""
    del document


def _table(content: bytes) -> Callable[[dict[str, Any]], Any]:
    text = base64.b64encode(content).decode()
    inner = {"type": "Precompiled", "precompiled_charsmap": text}
    return lambda d: d.update(normalizer={"type": "Sequence", "normalizers": [inner]})


def test_a_good_one_reads_texts(tmp_path: Path) -> None:
    tokenizer = open_tokenizer(_write(tmp_path, _as_it_is), 4)
    assert encode(tokenizer, "the law of the sea") == encode(tokenizer, "the law of the sea and more")
    assert len(encode(tokenizer, "the law of the sea")) == 4


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(padding={"strategy": {"Fixed": 10**12}, "direction": "Right", "pad_to_multiple_of": None,
                                    "pad_id": 0, "pad_type_id": 0, "pad_token": "x"}),
        lambda d: d.update(truncation={"direction": "Left", "max_length": 2, "strategy": "LongestFirst", "stride": 10}),
    ],
)  # fmt: skip
def test_what_the_file_says_of_padding_and_truncation_does_not_count(tmp_path: Path, change: Any) -> None:
    """Padding to 10^12 tokens would end the process."""
    good = open_tokenizer(_write(tmp_path, _as_it_is), 8)
    assert encode(open_tokenizer(_write(tmp_path, change), 8), "the sea and law") == encode(good, "the sea and law")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (_table(b"\0\0\0\0\xff\xff\xff\xff\xff\xff"[2:]), "says 4294901760 bytes and has 8"),
        (_table(b"\x03\0\0\0\0\0\0"), "says 3 bytes"),
        (_table(b"\0"), "says 0 bytes and has 1"),
        (lambda d: d.update(normalizer={"type": "Precompiled", "precompiled_charsmap": "?"}), "is not base64"),
        (_table(b"\x08\0\0\0\xff\xff\xff\x0f\0\0\0\0"), "fails on a text: index out of bounds"),
        (lambda d: d["model"].update(dropout=5.0), "Dropout should be between"),
        (lambda d: d["model"]["vocab"].update(x=-1), "invalid value"),
        (lambda d: d.pop("model"), "is not a tokenizer"),
        (lambda d: d.update(normalizer=3), "is not a tokenizer"),
    ],
)
def test_bad_ones(tmp_path: Path, change: Any, problem: str) -> None:
    with pytest.raises(ArtifactError, match=problem):
        open_tokenizer(_write(tmp_path, change), 8)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"[" * 100_000, b"null", b'{"model": NaN}'])
def test_what_is_no_tokenizer(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(ArtifactError, match="is not a tokenizer"):
        open_tokenizer(tmp_path / "tokenizer.json", 8)


def test_a_giant_one(tmp_path: Path) -> None:
    with (tmp_path / "tokenizer.json").open("wb") as file:
        file.truncate(MAX_TOKENIZER_BYTES + 1)
    with pytest.raises(ArtifactError, match="larger than 64 MiB"):
        open_tokenizer(tmp_path / "tokenizer.json", 8)


def test_an_interrupt_stays_one() -> None:
    for error in (KeyboardInterrupt(), SystemExit(1)):
        assert tokenizer_file.tokenizer_error(error, "x") is error


def test_the_shipped_one_is_read_alike(tmp_path: Path) -> None:
    ids = Artifact.open("models/newsgroups").preprocessor.prepare("space shuttle in orbit")["input_ids"]
    assert ids.tolist() == encode(open_tokenizer(_write(tmp_path, _as_it_is), 256), "space shuttle in orbit")
