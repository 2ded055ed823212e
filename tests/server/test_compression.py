"""Compressed bodies are read within bounds; what a client asks for is what it gets."""

import contextlib
import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.compression import FREE_BYTES, accepted_coding, compress, decompress
from server.errors import InvalidRequest, ServerError, TooLarge, Unsupported

LIMIT = 4 * FREE_BYTES
CODINGS = st.sampled_from(["gzip", "deflate"])


@given(st.binary(), CODINGS)
def test_round_trip(body: bytes, coding: str) -> None:
    assert decompress(compress(body, "gzip" if coding == "gzip" else "deflate"), coding, LIMIT) == body


def test_other_compressors_are_understood() -> None:
    assert decompress(gzip.compress(b"ball"), "GZip", LIMIT) == b"ball"
    assert decompress(gzip.compress(b"ball"), "x-gzip", LIMIT) == b"ball"
    assert decompress(zlib.compress(b"ball"), "deflate", LIMIT) == b"ball"
    assert decompress(b"ball", "identity", LIMIT) == b"ball"
    assert gzip.decompress(compress(b"ball", "gzip")) == b"ball"
    assert zlib.decompress(compress(b"ball", "deflate")) == b"ball"


@given(st.binary(), CODINGS)
def test_any_bytes_decompress_or_are_refused(body: bytes, coding: str) -> None:
    with contextlib.suppress(ServerError):
        assert len(decompress(body, coding, 100)) <= 100


@pytest.mark.parametrize(
    ("body", "encoding", "error", "words"),
    [
        (b"x", "br", Unsupported, "'br'"),
        (b"x", "gzip, deflate", Unsupported, "gzip, deflate"),
        (b"hello", "gzip", InvalidRequest, "not valid gzip"),
        (b"", "gzip", InvalidRequest, "cut off"),
        (gzip.compress(b"ball" * 100)[:-9], "gzip", InvalidRequest, "cut off"),
        (gzip.compress(b"ball") + b"more", "gzip", InvalidRequest, "4 bytes after"),
        (gzip.compress(bytes(LIMIT + 1), 1), "gzip", TooLarge, "more than 100 times"),
        (zlib.compress(bytes(LIMIT + 1), 0), "deflate", TooLarge, f"limit of {LIMIT}"),
    ],
)
def test_refusals(body: bytes, encoding: str, error: type[ServerError], words: str) -> None:
    with pytest.raises(error, match=words):
        decompress(body, encoding, LIMIT)


def test_a_small_body_of_zeros_passes_whatever_its_ratio() -> None:
    assert decompress(gzip.compress(bytes(FREE_BYTES)), "gzip", LIMIT) == bytes(FREE_BYTES)


@pytest.mark.parametrize(
    ("header", "coding"),
    [
        ("", None),
        ("identity", None),
        ("br", None),
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("gzip, deflate, br", "gzip"),
        ("gzip;q=0.5, deflate", "deflate"),
        ("gzip;q=0", None),
        ("gzip;q=0.5, identity", None),
        ("gzip; q=1.0, *;q=0", "gzip"),
        ("gzip;q=x", None),
    ],
)
def test_accepted_codings(header: str, coding: str | None) -> None:
    assert accepted_coding(header) == coding
