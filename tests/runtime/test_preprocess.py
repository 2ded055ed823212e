import io
import struct
import subprocess
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from runtime.artifact import Artifact
from runtime.errors import ArtifactError, InputError
from runtime.manifest import ImagePreprocessing, TensorPreprocessing, TextPreprocessing
from runtime.preprocess import ImagePreprocessor, TextPreprocessor, make_preprocessor
from tests.artifacts import LENGTHS, WORDS

GREY = ImagePreprocessor(ImagePreprocessing(mode="L", height=28, width=28, resize_shorter=28, mean=(0.3,), std=(0.25,)))
COLOUR = ImagePreprocessor(
    ImagePreprocessing(mode="RGB", height=24, width=20, resize_shorter=28, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
)
PIXELS = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)


def _encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _greys(data: bytes) -> NDArray[np.float64]:
    """What the grey preprocessor made of an image, back in 0..255."""
    row = GREY.prepare(data)["image"]
    assert row.dtype == np.float32
    assert row.shape == (1, 28, 28)
    greys: NDArray[np.float64] = (row[0].astype(np.float64) * 0.25 + 0.3) * 255
    return greys


def _png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("BMP", {}), ("GIF", {}), ("WEBP", {"lossless": True, "exact": True})]
)
def test_lossless_formats_give_the_same_pixels(kind: str, options: dict[str, Any]) -> None:
    np.testing.assert_allclose(_greys(_encode(Image.fromarray(PIXELS), kind, **options)), PIXELS, atol=1e-3)


def test_jpeg_is_close() -> None:
    smooth = np.add.outer(np.arange(28), np.arange(28)).astype(np.uint8) * 4
    assert np.abs(_greys(_encode(Image.fromarray(smooth), "JPEG", quality=95)) - smooth).max() < 8


def test_channels_are_normalized_one_by_one() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (28, 28, 3), dtype=np.uint8)
    row = COLOUR.prepare(_encode(Image.fromarray(pixels)))["image"].astype(np.float64)
    assert row.shape == (3, 24, 20)
    expected = pixels[2:26, 4:24].astype(np.float64) / 255  # the centre
    expected = (expected - [0.5, 0.4, 0.3]) / [0.2, 0.3, 0.4]
    np.testing.assert_allclose(row, expected.transpose(2, 0, 1), atol=1e-5)


@pytest.mark.parametrize("size", [(56, 84), (84, 56), (56, 56)])
def test_the_shorter_side_is_resized_and_the_centre_kept(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(2).integers(0, 256, (size[1], size[0]), dtype=np.uint8)
    image = Image.fromarray(noise)
    small = image.resize((size[0] // 2, size[1] // 2), Image.Resampling.BILINEAR)
    left, top = (small.width - 28) // 2, (small.height - 28) // 2
    expected = np.asarray(small.crop((left, top, left + 28, top + 28)), dtype=float)
    found = _greys(_encode(image))
    # The filter does not look beyond the crop, so only the outermost pixels differ.
    assert np.abs(found - expected)[1:-1, 1:-1].max() <= 1.01


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown rotated by 90 degrees clockwise
    found = _greys(_encode(Image.fromarray(PIXELS), exif=exif))
    np.testing.assert_allclose(found, np.rot90(PIXELS, -1), atol=1e-3)


def test_transparent_pixels_are_laid_over_black() -> None:
    alpha = np.zeros((28, 28), dtype=np.uint8)
    alpha[:, 14:] = 255
    alpha[:, 7:14] = 128
    image = Image.merge("LA", [Image.fromarray(PIXELS), Image.fromarray(alpha)])
    expected = PIXELS * (alpha / 255)
    assert np.abs(_greys(_encode(image)) - expected).max() <= 1.01
    np.testing.assert_allclose(_greys(_encode(image.convert("RGBA"))), _greys(_encode(image)), atol=1e-3)


def test_transparent_colour_of_a_palette() -> None:
    image = Image.new("P", (28, 28), 0)
    image.putpalette([200, 200, 200, 90, 90, 90])
    image.paste(1, (14, 0, 28, 28))
    found = _greys(_encode(image, transparency=0))
    np.testing.assert_allclose(found[:, :14], 0, atol=1e-3)
    np.testing.assert_allclose(found[:, 14:], 90, atol=1e-3)


def test_sixteen_bits_are_scaled() -> None:
    image = Image.fromarray(PIXELS.astype(np.uint16) * 257)
    assert image.mode.startswith("I;16")
    np.testing.assert_allclose(_greys(_encode(image)), PIXELS, atol=1e-3)


@pytest.mark.parametrize("mode", ["1", "P", "RGB", "CMYK"])
def test_other_modes_are_read(mode: str) -> None:
    kind = "JPEG" if mode == "CMYK" else "PNG"
    found = _greys(_encode(Image.new("L", (28, 28), 255).convert(mode), kind))
    assert np.abs(found - 255).max() < 3


def test_the_first_frame_of_an_animation() -> None:
    frames = [Image.new("L", (28, 28), value) for value in (40, 80, 160)]
    found = _greys(_encode(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    np.testing.assert_allclose(found, 40, atol=1e-3)


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (1, 1), (3, 2000)])
def test_strips(size: tuple[int, int]) -> None:
    np.testing.assert_allclose(_greys(_encode(Image.new("L", size, 77))), 77, atol=1e-3)


@pytest.mark.parametrize("size", [(8000, 7000), (10_000, 10_000), (100_000, 100_000), (2**31 - 1, 1)])
def test_giants_are_refused_before_they_are_decoded(size: tuple[int, int]) -> None:
    with pytest.raises(InputError) as refused:
        GREY.prepare(_png_header(*size))
    assert refused.value.code == "image_too_large"


def test_only_the_allowed_formats_are_ever_loaded() -> None:
    code = (
        "from PIL import Image, ImageFile; from runtime.errors import InputError; from runtime.preprocess import *\n"
        "spec = ImagePreprocessing(mode='L', height=4, width=4, resize_shorter=4, mean=[0.0], std=[1.0])\n"
        "for data in (b'II*\\0' + bytes(50), b'%!PS-Adobe-3.0 EPSF', b'P5 1 1 255 a', b'RIFF1234WEBPnone'):\n"
        "    try: ImagePreprocessor(spec).prepare(data)\n"
        "    except InputError as error: assert error.code == 'not_an_image', error\n"
        "    else: raise SystemExit('it was read')\n"
        "print(ImageFile.LOAD_TRUNCATED_IMAGES, *(set(Image.OPEN) - set(IMAGE_FORMATS)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    truncated, *others = done.stdout.split()
    assert truncated == "False"
    assert set(others) <= {"DIB", "MPO", "PPM", "TIFF"}  # they come with BMP and JPEG, or always


def test_odd_files_are_read_by_many_threads_and_no_filter_of_warnings_changes() -> None:
    file = io.BytesIO()
    Image.new("P", (4, 4)).save(file, "PNG", transparency=bytes(range(4)))  # Pillow warns of converting it to RGB
    spec = ImagePreprocessing(
        mode="RGB", height=4, width=4, resize_shorter=4, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
    )
    before = list(warnings.filters)
    with ThreadPoolExecutor(4) as pool:
        rows = list(pool.map(ImagePreprocessor(spec).prepare, [file.getvalue()] * 100))
    assert all(np.array_equal(row["image"], rows[0]["image"]) for row in rows)
    assert list(warnings.filters) == before


def test_the_limit_itself_is_allowed() -> None:
    small = ImagePreprocessor(GREY.spec, max_pixels=100)
    small.prepare(_encode(Image.new("L", (10, 10))))
    with pytest.raises(InputError, match=r"Image is 0\.00011 MP; the limit is 0\.0001 MP"):
        small.prepare(_encode(Image.new("L", (11, 10))))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_truncated_files_are_refused(kind: str, share: float) -> None:
    data = _encode(Image.fromarray(PIXELS), kind)
    with pytest.raises(InputError) as refused:
        GREY.prepare(data[: int(len(data) * share)])
    assert refused.value.code in ("broken_image", "not_an_image")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "empty_input"),
        (b"GIF89a", "not_an_image"),
        (b"hello", "not_an_image"),
        (_encode(Image.fromarray(PIXELS), "TIFF"), "not_an_image"),
        (_png_header(0, 5), "not_an_image"),
        ("a text", "wrong_type"),
    ],
    ids=["nothing", "a start", "a word", "TIFF", "no width", "a text"],
)
def test_what_is_no_image_is_refused(data: bytes | str, code: str) -> None:
    with pytest.raises(InputError) as refused:
        GREY.prepare(data)
    assert refused.value.code == code


@given(st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "BMP"]), st.data())
def test_damaged_files_are_read_or_refused(kind: str, data: st.DataObject) -> None:
    content = bytearray(_encode(Image.fromarray(PIXELS), kind))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        row = GREY.prepare(bytes(content))
    except InputError:
        return
    assert np.isfinite(row["image"]).all()


def test_images_are_stacked_in_order() -> None:
    rows = [GREY.prepare(_encode(Image.new("L", (28, 28), value))) for value in (0, 255)]
    batch = GREY.collate(rows)["image"]
    assert batch.shape == (2, 1, 28, 28)
    np.testing.assert_array_equal(batch, [rows[0]["image"], rows[1]["image"]])


@pytest.fixture(scope="module")
def text(text_artifact: Artifact) -> TextPreprocessor:
    assert isinstance(text_artifact.preprocessor, TextPreprocessor)
    return text_artifact.preprocessor


def _id(word: str) -> int:
    return 2 + WORDS.index(word)


def test_text_to_ids(text: TextPreprocessor) -> None:
    row = text.prepare("The BALL  game\nxylophone")
    np.testing.assert_array_equal(row["input_ids"], [_id("the"), _id("ball"), _id("game"), 1])
    np.testing.assert_array_equal(row["attention_mask"], [1, 1, 1, 1])
    np.testing.assert_array_equal(text.prepare(b"the ball")["input_ids"], text.prepare("the ball")["input_ids"])


@pytest.mark.parametrize(
    ("counts", "tokens"), [((1,), 8), ((8,), 8), ((9,), 32), ((1, 8), 8), ((2, 32), 32), ((500,), 32)]
)
def test_texts_are_padded_to_the_nearest_length_and_cut_at_the_longest(
    text: TextPreprocessor, counts: tuple[int, ...], tokens: int
) -> None:
    batch = text.collate([text.prepare("goal " * count) for count in counts])
    kept = [min(count, LENGTHS[-1]) for count in counts]
    mask = np.array([[1] * count + [0] * (tokens - count) for count in kept])
    np.testing.assert_array_equal(batch["attention_mask"], mask)
    np.testing.assert_array_equal(batch["input_ids"], mask * _id("goal"))
    assert batch["input_ids"].dtype == batch["attention_mask"].dtype == np.int64


@pytest.mark.parametrize(
    ("data", "code"),
    [("", "empty_input"), (" \n\t", "empty_input"), (b"", "empty_input"), (b"ab\xff", "not_a_text")],
)
def test_what_is_no_text_is_refused(text: TextPreprocessor, data: bytes | str, code: str) -> None:
    with pytest.raises(InputError) as refused:
        text.prepare(data)
    assert refused.value.code == code


@given(data=st.text(max_size=200) | st.binary(max_size=200))
def test_any_text_is_read_or_refused(text: TextPreprocessor, data: str | bytes) -> None:
    try:
        row = text.prepare(data)
    except InputError:
        return
    assert 1 <= len(row["input_ids"]) <= LENGTHS[-1]
    assert row["input_ids"].min() >= 0
    assert row["input_ids"].max() < 2 + len(WORDS)


def test_a_broken_tokenizer_is_an_artifact_error(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ArtifactError, match="not a tokenizer"):
        make_preprocessor(TextPreprocessing(pad_id=0, lengths=(8,)), tmp_path)


def test_tensors_have_no_preprocessing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="takes tensors"):
        make_preprocessor(TensorPreprocessing(), tmp_path)


@pytest.mark.parametrize("preprocessor", [GREY, COLOUR])
@pytest.mark.parametrize("size", [(28, 28), (40, 31)])
def test_decoded_images_give_what_their_files_give(preprocessor: ImagePreprocessor, size: tuple[int, int]) -> None:
    generator = np.random.default_rng(1)
    grey = generator.integers(0, 256, (*size, 1), dtype=np.uint8)
    colour = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
    for array, image in ((grey, Image.fromarray(grey[..., 0])), (colour, Image.fromarray(colour))):
        expected = preprocessor.prepare(_encode(image))["image"].astype(np.float32, copy=False)
        np.testing.assert_array_equal(preprocessor.prepare(array)["image"], expected)
        np.testing.assert_array_equal(preprocessor.prepare(array[::-1][::-1])["image"], expected)
        assert np.shares_memory(preprocessor.prepare(expected)["image"], expected)
        np.testing.assert_array_equal(preprocessor.prepare(expected)["image"], expected)


@pytest.mark.parametrize(
    ("array", "code"),
    [
        (np.zeros((28, 28), np.uint8), "bad_shape"),
        (np.zeros((28, 28, 4), np.uint8), "bad_shape"),
        (np.zeros((0, 28, 1), np.uint8), "bad_shape"),
        (np.zeros((1, 28, 27), np.float32), "bad_shape"),
        (np.zeros((1, 28, 28), np.float64), "bad_shape"),
        (np.full((1, 28, 28), np.nan, np.float32), "not_finite"),
        (np.full((1, 28, 28), np.inf, np.float32), "not_finite"),
        (np.zeros((8000, 8000, 1), np.uint8), "image_too_large"),
    ],
)
def test_bad_image_tensors_are_refused(array: Any, code: str) -> None:
    with pytest.raises(InputError) as refused:
        GREY.prepare(array)
    assert refused.value.code == code


def test_a_text_model_takes_no_tensor(text: TextPreprocessor) -> None:
    with pytest.raises(InputError, match="takes a text, not a tensor"):
        text.prepare(np.zeros((28, 28, 1), np.uint8))
