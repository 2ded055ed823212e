"""The tokenizer: reproducible, without unknowns on the genuine texts, and the same for raw and prepared text."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from training.data import Dataset, train_tokenizer


@pytest.fixture(scope="module")
def texts(newsgroups: Dataset) -> tuple[str, ...]:
    assert isinstance(newsgroups.train.inputs, tuple)
    return newsgroups.train.inputs[::8]


@pytest.fixture(scope="module")
def tokenizer(texts: tuple[str, ...]) -> Tokenizer:
    return train_tokenizer(texts, 2048)


def test_two_processes_learn_the_same_bytes(texts: tuple[str, ...], tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    script = (
        "import json, sys; from training.data import train_tokenizer;"
        "sys.stdout.write(train_tokenizer(json.load(open(sys.argv[1])), 2048).to_str())"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "texts.json")]
    for _ in "ab":
        result = subprocess.run(command, capture_output=True, check=True)
        assert result.stdout.decode() == tokenizer.to_str()


def test_the_vocabulary_has_the_asked_size_and_fixed_first_ids(tokenizer: Tokenizer) -> None:
    vocabulary = tokenizer.get_vocab()
    assert sorted(vocabulary.values()) == list(range(2048))
    assert (vocabulary["[PAD]"], vocabulary["[UNK]"]) == (0, 1)
    assert train_tokenizer(["a b"], 10, pad_token="<pad>").token_to_id("<pad>") == 0


def test_no_test_text_holds_an_unknown_piece(newsgroups: Dataset, tokenizer: Tokenizer) -> None:
    assert newsgroups.test is not None
    assert isinstance(newsgroups.test.inputs, tuple)
    texts = newsgroups.test.inputs[::5]
    for text, encoding in zip(texts, tokenizer.encode_batch(texts), strict=True):
        assert min(encoding.ids) > 1
        assert "".join(encoding.tokens).replace("\u2581", " ").strip() == " ".join(text.split())


def test_raw_text_comes_out_like_the_prepared_text(tokenizer: Tokenizer) -> None:
    raw = "Re: Café prices?\n\n> Don't ask -- it's $3.50 (me@x.org)\t\N{GRINNING FACE}"
    assert tokenizer.encode(raw).ids == tokenizer.encode("re cafe prices don t ask it s me x org").ids


@given(st.text(st.characters(max_codepoint=127)))
def test_ascii_is_reduced_to_lower_case_letters(text: str) -> None:
    tokenizer = train_tokenizer(["abcdefghijklmnopqrstuvwxyz"] * 2, 64)
    words = re.sub("[^a-z]+", " ", text.lower()).strip()
    assert "".join(tokenizer.encode(text).tokens).replace("\u2581", " ").strip() == words


@pytest.mark.parametrize(("text", "count"), [("日本語", 1), ("[PAD]", 0), ("[UNK]", 0), ("\u2581", 0), ("12 !?", 0)])
def test_only_foreign_letters_are_unknown(tokenizer: Tokenizer, text: str, count: int) -> None:
    ids = tokenizer.encode(text).ids
    assert ids.count(1) == count
    assert 0 not in ids


def test_a_saved_tokenizer_is_the_same(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    loaded = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert loaded.to_str() == tokenizer.to_str()
