"""`serving.yaml`: read strictly, written so that it is read back as it was meant."""

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.errors import ServingError
from server.serving_file import Entry, Reading, parse_serving, read_serving, write_serving

WHERE = Path("serving.yaml")
IDENTIFIERS = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,20}\Z") | st.sampled_from(
    ["1", "1.10", "010", "no", "null", "1e3"]
)


def read(path: Path) -> Reading:
    reading = read_serving(path)
    assert reading is not None
    return reading


def test_versions_are_what_is_written() -> None:
    parsed = parse_serving(
        b"models: {a: {version: 1.10}, b: {version: 010, min_heads: 2}, c: {}, 7: {version: no}}", WHERE
    )
    assert {name: entry.version for name, entry in parsed.models.items()} == {
        "a": "1.10", "b": "010", "c": "latest", "7": "no",
    }  # fmt: skip
    assert parsed.models["b"].min_heads == 2


@settings(max_examples=30)
@given(
    st.dictionaries(
        IDENTIFIERS,
        st.builds(
            Entry,
            version=IDENTIFIERS,
            engine=st.none() | IDENTIFIERS,
            precision=st.none() | IDENTIFIERS,
            min_heads=st.none() | st.integers(1, 99),
        ),
    )
)
def test_what_is_written_is_read_back(models: dict[str, Entry]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "serving.yaml"
        write_serving(path, models)
        assert read(path).models == models


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("models: {a: {versoin: 1}}", r"models\.a\.versoin"),
        ("model: {}", r"models: Field required"),
        ("", "the file"),
        ("[1, 2]", "the file"),
        ("models: [a]", "models"),
        ("models: {a: latest}", r"models\.a"),
        ("models: {../a: {}}", r"models\.\.\./a"),
        ("models: {a: {version: ../1}}", r"models\.a\.version"),
        ("models: {a: {min_heads: 0}}", r"models\.a\.min_heads"),
        ("models: {a: {min_heads: two}}", r"models\.a\.min_heads"),
        ("models: {a: {}, a: {version: 2}}", "'a' stands twice"),
        ("models: {a: {version: 1}", "no YAML"),
        ("models: &m {a: *m}", "no YAML"),
        ("[" * 2000, "no YAML"),
        ("\0", "no YAML"),
        ("models: !!python/object/apply:os.getcwd []", "models"),
    ],
)
def test_anything_else_is_refused(content: str, reason: str) -> None:
    with pytest.raises(ServingError, match=reason) as error:
        parse_serving(content.encode(), WHERE)
    assert str(error.value).startswith("serving.yaml is no ")
    assert "\n" not in str(error.value)


def test_no_file_and_no_plain_file(tmp_path: Path) -> None:
    path = tmp_path / "serving.yaml"
    assert read_serving(path) is None
    os.mkfifo(path)
    with pytest.raises(ServingError, match="not a plain file"):
        read_serving(path)
    path.unlink()
    path.write_bytes(b"#" * (2**20 + 1))
    with pytest.raises(ServingError, match="more than"):
        read_serving(path)


def test_a_link_is_followed_as_mounted_configuration_needs(tmp_path: Path) -> None:
    write_serving(tmp_path / "real.yaml", {"a": Entry(version="2")})
    (tmp_path / "serving.yaml").symlink_to("real.yaml")
    assert read(tmp_path / "serving.yaml").models == {"a": Entry(version="2")}


def test_the_stamp_changes_with_each_write_and_with_content_alone(tmp_path: Path) -> None:
    path = tmp_path / "serving.yaml"
    write_serving(path, {"a": Entry(version="1")})
    first = read(path)
    assert read(path).stamp == first.stamp
    write_serving(path, {"a": Entry(version="1")})
    second = read(path)
    assert (second.models, second.stamp != first.stamp) == (first.models, True)
    before = path.stat()
    with path.open("r+b") as file:
        file.write(path.read_bytes().replace(b"'1'", b"'2'"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = read(path)
    assert after.stamp[:3] == second.stamp[:3]
    assert after.stamp != second.stamp


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ServingError, match="cannot be written"):
        write_serving(tmp_path / "file" / "serving.yaml", {})
