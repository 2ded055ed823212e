"""Images and texts to input tensors. Training imports this too, so that what is served is what was learned.

preprocessor = make_preprocessor(manifest.preprocessing, folder)
row = preprocessor.prepare(png_bytes)          # {"image": float32 [1, 28, 28]}
batch = preprocessor.collate([row, row])       # {"image": float32 [2, 1, 28, 28]}
"""

import io
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import (  # the formats that are read: without their plugins Pillow would import all that it has
    BmpImagePlugin,  # noqa: F401
    GifImagePlugin,  # noqa: F401
    Image,
    ImageOps,
    JpegImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)
from tokenizers import Tokenizer

from runtime.errors import InputError
from runtime.manifest import ImagePreprocessing, Preprocessing, TensorPreprocessing, TensorSpec, TextPreprocessing
from runtime.tokenizer_file import encode, open_tokenizer

Pixels = NDArray[np.uint8]
"""A decoded image, [height, width, channels] with 1 (grey) or 3 (RGB) channels."""
Prepared = NDArray[np.float32]
"""An image that the client has preprocessed, [channels, height, width]."""
Input = bytes | str | Pixels | Prepared
"""What a client sends for one row: an image file, a text, or an image as a tensor."""
Row = Mapping[str, NDArray[np.generic]]
"""The input tensors of one example, without batch axis."""
Batch = dict[str, NDArray[np.generic]]
"""The input tensors of some examples, batch axis first."""

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
MAX_PIXELS = 50_000_000
MOST_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or MAX_PIXELS)
"""Most pixels that any limit may allow: Pillow, which allocates a little while it reads the header, refuses more."""

# Pillow warns about odd but readable files, and about sizes, which are checked here. Once and for the whole process:
# `warnings.catch_warnings` around each decoding would change the filters of all threads.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class Preprocessor(ABC):
    """Turns what a client sends into input tensors."""

    modality: ClassVar[str]

    @abstractmethod
    def prepare(self, data: Input) -> Row:
        """Turn one input into its input tensors. Raises InputError."""

    @abstractmethod
    def collate(self, rows: Sequence[Row]) -> Batch:
        """Stack prepared rows into one batch."""

    def tokens(self, row: Row) -> int:  # noqa: ARG002 - it is texts that differ
        """Padded length of a text by itself; 0 where all inputs have one size. Batches of one length waste nothing."""
        return 0

    @abstractmethod
    def input_specs(self) -> tuple[TensorSpec, ...]:
        """Name, dtype and shape of the input tensors."""


class ImagePreprocessor(Preprocessor):
    """Image files to `image` float32 [channels, height, width]; see `ImagePreprocessing` for the steps."""

    modality = "image"

    def __init__(self, spec: ImagePreprocessing, max_pixels: int = MAX_PIXELS) -> None:
        self.spec = spec
        self.max_pixels = max_pixels
        self._resample = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[
            spec.interpolation
        ]

    def prepare(self, data: Input) -> Row:
        """Decode, resize, crop and normalize one image; what has been decoded or normalized already is not again."""
        if isinstance(data, str):
            raise InputError("wrong_type", "This model takes an image, not a text.")
        if isinstance(data, np.ndarray):
            return {"image": self._from_array(data)}
        pixels = np.asarray(self.resize(self.decode(data)))
        return {"image": self.normalize(pixels[None])[0]}

    def collate(self, rows: Sequence[Row]) -> Batch:
        """Stack the images: float32 [batch, channels, height, width]."""
        return {"image": np.stack([row["image"] for row in rows])}

    def input_specs(self) -> tuple[TensorSpec, ...]:
        """One tensor, `image`."""
        return self.spec.input_specs()

    def decode(self, data: bytes) -> Image.Image:
        """Decode an image file to the mode of the model. The size is checked before any pixel is decoded."""
        if not data:
            raise InputError("empty_input", "The image is empty (0 bytes).")
        try:
            image: Image.Image = Image.open(io.BytesIO(data), formats=IMAGE_FORMATS)
            self._check_pixels(image.width * image.height)
            image.load()
            image = ImageOps.exif_transpose(image)
            return self._to_mode(image)
        except UnidentifiedImageError as error:
            raise InputError(
                "not_an_image", f"The data is not an image in a supported format ({', '.join(IMAGE_FORMATS)})."
            ) from error
        except Image.DecompressionBombError as error:
            raise InputError("image_too_large", f"Image is too large: {error}.") from error
        except (OSError, ValueError, SyntaxError, IndexError, EOFError) as error:
            raise InputError("broken_image", f"The image is damaged and cannot be decoded: {error}.") from error

    def resize(self, image: Image.Image) -> Image.Image:
        """Bring the shorter side to `resize_shorter`, then crop the centre."""
        spec = self.spec
        # Only the part of the image that the crop keeps is resampled: an extreme strip cannot blow up memory.
        # Multiplied first: where the crop keeps all, the quotient is exact, and the corner no rounding error below 0.
        shorter = min(image.size)
        width, height = spec.width * shorter / spec.resize_shorter, spec.height * shorter / spec.resize_shorter
        left, top = (image.width - width) / 2, (image.height - height) / 2
        if image.size == (spec.width, spec.height) and shorter == spec.resize_shorter:
            return image
        return image.resize((spec.width, spec.height), self._resample, box=(left, top, left + width, top + height))

    def normalize(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Uint8 [batch, height, width(, channels)] -> float32 [batch, channels, height, width]."""
        if pixels.ndim == 3:
            pixels = pixels[..., None]
        mean = np.asarray(self.spec.mean, dtype=np.float32)
        std = np.asarray(self.spec.std, dtype=np.float32)
        scaled = (pixels.astype(np.float32) / np.float32(255) - mean) / std
        return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))

    def _check_pixels(self, count: int) -> None:
        if count > self.max_pixels:
            size, limit = count / 1e6, self.max_pixels / 1e6
            raise InputError("image_too_large", f"Image is {size:.4g} MP; the limit is {limit:.4g} MP.")

    def _from_array(self, data: Pixels | Prepared) -> Prepared:
        shape = (len(self.spec.mean), self.spec.height, self.spec.width)
        if data.dtype == np.float32:
            if data.shape != shape:
                raise InputError(
                    "bad_shape", f"A preprocessed image of this model has shape {list(shape)}, not {list(data.shape)}."
                )
            if not np.isfinite(data).all():  # here, where it fails one input and not a batch
                raise InputError("not_finite", "The preprocessed image holds NaN or infinite values.")
            return data.view(np.float32)
        if data.dtype != np.uint8 or data.ndim != 3 or data.shape[2] not in (1, 3) or not data.size:
            raise InputError(
                "bad_shape",
                "An image as a tensor must be float32 or uint8, and as uint8 have the shape [height, width, 1 or 3], "
                f"not {list(data.shape)} ({data.dtype}).",
            )
        self._check_pixels(data.shape[0] * data.shape[1])
        image = Image.fromarray(np.ascontiguousarray(data[:, :, 0] if data.shape[2] == 1 else data, np.uint8))
        normalized: Prepared = self.normalize(np.asarray(self.resize(self._to_mode(image)))[None])[0]
        return normalized

    def _to_mode(self, image: Image.Image) -> Image.Image:
        if image.mode.startswith("I;16") or image.mode == "I":  # 16-bit greys: Pillow would clip them, not scale
            image = Image.fromarray((np.asarray(image, dtype=np.float64) / 257).clip(0, 255).astype(np.uint8))
        if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
        return image.convert(self.spec.mode)


class TextPreprocessor(Preprocessor):
    """Texts to `input_ids` and `attention_mask`, int64 [tokens], padded on collation to the nearest length."""

    modality = "text"

    def __init__(self, spec: TextPreprocessing, tokenizer: Tokenizer) -> None:
        self.spec = spec
        self._tokenizer = tokenizer
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(spec.lengths[-1])

    def prepare(self, data: Input) -> Row:
        """Tokenize one text."""
        if isinstance(data, np.ndarray):
            raise InputError("wrong_type", "This model takes a text, not a tensor.")
        if isinstance(data, bytes):
            try:
                data = data.decode("utf-8")
            except UnicodeDecodeError as error:
                raise InputError("not_a_text", f"The text is not valid UTF-8 (byte {error.start}).") from error
        if not data.strip():
            raise InputError("empty_input", "The text is empty.")
        ids = np.asarray(encode(self._tokenizer, data), dtype=np.int64)
        if not len(ids):
            raise InputError("empty_input", "The text holds nothing that the model's tokenizer knows, such as words.")
        return {"input_ids": ids, "attention_mask": np.ones_like(ids)}

    def collate(self, rows: Sequence[Row]) -> Batch:
        """Pad to the smallest of `lengths` that holds the longest row: two int64 [batch, tokens]."""
        tokens = max(self.tokens(row) for row in rows)
        ids = np.full((len(rows), tokens), self.spec.pad_id, dtype=np.int64)
        mask = np.zeros((len(rows), tokens), dtype=np.int64)
        for index, row in enumerate(rows):
            ids[index, : len(row["input_ids"])] = row["input_ids"]
            mask[index, : len(row["input_ids"])] = row["attention_mask"]
        return {"input_ids": ids, "attention_mask": mask}

    def tokens(self, row: Row) -> int:
        """Return the smallest of `lengths` that holds the text."""
        return next(length for length in self.spec.lengths if length >= len(row["input_ids"]))

    def input_specs(self) -> tuple[TensorSpec, ...]:
        """Two tensors, `input_ids` and `attention_mask`."""
        return self.spec.input_specs()


def make_preprocessor(spec: Preprocessing, folder: Path) -> Preprocessor:
    """Return the preprocessor for `spec`; `folder` holds its tokenizer, if it needs one. Raises ArtifactError."""
    match spec:
        case ImagePreprocessing():
            return ImagePreprocessor(spec)
        case TextPreprocessing():
            return TextPreprocessor(spec, open_tokenizer(folder / spec.tokenizer, spec.lengths[-1]))
        case TensorPreprocessing():
            raise InputError("wrong_type", "This model takes tensors; it has no preprocessing.")
