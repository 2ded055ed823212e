"""Compressed bodies: gzip and deflate, undone within bounds, and applied to replies when the client asks for it."""

import zlib
from typing import Literal

from server.errors import InvalidRequest, TooLarge, Unsupported

Coding = Literal["gzip", "deflate"]

WINDOW: dict[str, int] = {"gzip": 31, "deflate": 15}
"""What zlib calls each coding: deflate is the zlib format, not a bare stream of deflate."""
MAX_RATIO = 100
"""Largest ratio of decompressed to compressed bytes, beyond FREE_BYTES: images and texts stay far below it."""
FREE_BYTES = 2**20
"""Decompressed bytes that may come of few compressed ones, as an image of zeros does."""
MIN_REPLY_BYTES = 1024
"""Replies below this size are sent as they are: compressing them saves less than it costs."""


def decompress(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """Undo the Content-Encoding of a request. Raises InvalidRequest, TooLarge (size or ratio) or Unsupported."""
    coding = encoding.strip().lower().removeprefix("x-")
    if coding in ("", "identity"):
        return body
    if coding not in WINDOW:
        raise Unsupported(
            "bad_encoding",
            f"Content-Encoding {encoding[:100]!r} is not supported; use gzip or deflate, or send it plain.",
        )
    limit = min(max_bytes, max(FREE_BYTES, MAX_RATIO * len(body)))
    stream = zlib.decompressobj(WINDOW[coding])
    try:
        plain = stream.decompress(body, limit + 1)
    except zlib.error as error:
        raise InvalidRequest("bad_compression", f"The body is not valid {coding}: {error}.") from error
    if len(plain) > max_bytes:
        raise TooLarge("body_too_large", f"The body, decompressed, exceeds the limit of {max_bytes} bytes.")
    if len(plain) > limit:
        raise TooLarge(
            "compression_ratio",
            f"The body of {len(body)} bytes decompresses to more than {MAX_RATIO} times as many; send it plain.",
        )
    if not stream.eof:
        raise InvalidRequest("bad_compression", f"The body of {len(body)} bytes is {coding} that is cut off.")
    if stream.unused_data:
        raise InvalidRequest(
            "bad_compression", f"The body goes on for {len(stream.unused_data)} bytes after its {coding}."
        )
    return plain


def accepted_coding(accept_encoding: str) -> Coding | None:
    """Which coding a client asks for with Accept-Encoding; None: none, or rather not."""
    weights = {"identity": 0.001}
    for item in accept_encoding.lower().split(","):
        name, _, parameter = item.partition(";")
        weight = parameter.strip().removeprefix("q=")
        try:
            weights[name.strip()] = float(weight) if weight else 1.0
        except ValueError:
            weights[name.strip()] = 0.0  # a weight that cannot be read is no wish
    best: Coding = "gzip" if weights.get("gzip", 0) >= weights.get("deflate", 0) else "deflate"
    return best if weights.get(best, 0) > 0 and weights[best] >= weights["identity"] else None


def compress(body: bytes, coding: Coding) -> bytes:
    """Compress a reply fast rather than small."""
    stream = zlib.compressobj(1, zlib.DEFLATED, WINDOW[coding])
    return stream.compress(body) + stream.flush()
