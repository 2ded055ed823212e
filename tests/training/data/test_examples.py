"""The shipped examples are what their script writes: genuine test inputs with their true labels."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from training.data import Dataset

EXAMPLES = Path(__file__).parents[3] / "examples"


def test_examples_are_genuine(fashion_mnist: Dataset, newsgroups: Dataset) -> None:
    expected = json.loads((EXAMPLES / "expected.json").read_text())
    assert {path.relative_to(EXAMPLES).as_posix() for path in EXAMPLES.glob("*/*.*")} == set(expected)
    for name, answer in expected.items():
        path = EXAMPLES / name
        dataset = {"fashion-mnist": fashion_mnist, "newsgroups": newsgroups}[answer["model"]]
        row = int(path.stem.rsplit("-", 1)[1])
        assert dataset.test is not None
        assert dataset.labels[dataset.test.targets[row]] == answer["label"]
        if path.suffix == ".png":
            assert np.array_equal(np.asarray(Image.open(path)), dataset.test.inputs[row])
        else:
            assert path.read_text() == f"{dataset.test.inputs[row]}\n"
            assert "@" not in path.read_text()


def test_the_script_writes_the_shipped_files(tmp_path: Path) -> None:
    subprocess.run([sys.executable, EXAMPLES / "make_examples.py", tmp_path], check=True)
    shipped = [path for path in EXAMPLES.rglob("*.*") if path.suffix in (".png", ".txt", ".json")]
    written = [path for path in tmp_path.rglob("*.*") if path.is_file()]
    names = sorted(path.relative_to(EXAMPLES) for path in shipped)
    assert sorted(path.relative_to(tmp_path) for path in written) == names
    for path in shipped:
        if path.suffix != ".png":  # the compression of PNG files varies with the release of zlib
            assert (tmp_path / path.relative_to(EXAMPLES)).read_bytes() == path.read_bytes()
