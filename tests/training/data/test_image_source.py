"""Sources of encoded images: each row once, the first row's error, and the process left as it was."""

import threading
import warnings
from pathlib import Path

import pytest

from training.data import DataError
from training.data.image_source import ImageFilesSource, for_each_row, hash_images


@pytest.mark.parametrize("count", [0, 1, 7, 5000])
def test_each_row_is_worked_on_once(count: int) -> None:
    seen: list[int] = []
    for_each_row(seen.append, count)
    assert sorted(seen) == list(range(count))


def test_the_first_rows_error_is_raised() -> None:
    later = threading.Event()

    def work(row: int) -> None:
        if row == 3:
            later.wait(timeout=0.2)  # give row 90 time to fail first
            raise ValueError("row 3")
        if row == 90:
            later.set()
            raise ValueError("row 90")

    with pytest.raises(ValueError, match="row 3"):
        for_each_row(work, 100)


def test_what_threads_do_to_warnings_ends_with_them() -> None:
    before = list(warnings.filters)
    for_each_row(lambda _: warnings.simplefilter("ignore"), 4)
    assert list(warnings.filters) == before


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    source = ImageFilesSource(tmp_path, ("a", "b/c"))
    for read in (hash_images, ImageFilesSource.identity):
        with pytest.raises(DataError, match=rf"{tmp_path}/b/c cannot be used: .*No such file"):
            read(source)
