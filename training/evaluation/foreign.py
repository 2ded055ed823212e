"""A second data set, whose inputs the network should notice it does not know.

examples = foreign_examples("image-folder=pictures", description)
"""

from pathlib import Path
from typing import Any, get_args

import numpy as np
import yaml
from PIL import Image
from pydantic import ValidationError

from runtime.manifest import ImagePreprocessing
from runtime.preprocess import ImagePreprocessor
from training.checkpoint import RunDescription
from training.data import DataConfig, Dataset, Examples, ImageConfig, load_dataset
from training.errors import ConfigError

SOURCES: tuple[str, ...] = get_args(DataConfig.model_fields["source"].annotation)
TEXTS = ("newsgroups", "text-table")
"""Sources that hold texts; the others hold images."""


def foreign_data(against: str, description: RunDescription) -> tuple[Dataset, Examples]:
    """Load the second data set: its test part, or all of it where it has none, as the run's network takes it.

    `against` names a recipe (recipes/newsgroups.yaml: its section `data`), a source (fashion-mnist), or a source and
    its path (image-folder=pictures, text-table=texts.csv). Images are brought to the network's size and mode.
    Raises ConfigError and DataError.
    """
    image = description.preprocessing if isinstance(description.preprocessing, ImagePreprocessing) else None
    dataset = load_dataset(data_config(against, image))
    if dataset.sha256 == description.data_sha256:
        raise ConfigError(f"{against} is the data that this run was trained on; name other data.")
    examples = dataset.test or dataset.train
    return dataset, examples if image is None else in_shape(examples, image)


def data_config(against: str, image: ImagePreprocessing | None) -> DataConfig:
    """Read what `against` names; `image` is what the network sees, to which folders of images are decoded at once."""
    source, separator, path = against.partition("=")
    fields: Any
    if source in SOURCES:
        fields = {"source": source, "path": path} if separator else {"source": source}
    elif Path(against).suffix in (".yaml", ".yml"):
        fields = _section(Path(against))
    else:
        raise ConfigError(
            f"{against!r} names no data: give a recipe (a .yaml file), one of {', '.join(SOURCES)}, or one of these "
            "with its path, such as image-folder=pictures."
        )
    if (fields.get("source") in TEXTS) != (image is None):
        holds, reads = ("images", "texts") if image is None else ("texts", "images")
        raise ConfigError(f"{against} holds {holds}, but the network reads {reads}; name other data.")
    if fields.get("source") in ("image-folder", "imagenet") and image is not None:
        fields = {**fields, "image": _image_config(image)}
    try:
        return DataConfig.model_validate(fields)
    except ValidationError as error:
        reasons = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"{against!r} is no valid data configuration: {reasons}") from error


def _section(recipe: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(recipe.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"The recipe {recipe} cannot be read: {error}") from error
    section = document.get("data") if isinstance(document, dict) else None
    if not isinstance(section, dict):
        raise ConfigError(f"The recipe {recipe} has no section `data`.")
    return section


def _image_config(image: ImagePreprocessing) -> ImageConfig:
    return ImageConfig(
        mode=image.mode,
        height=image.height,
        width=image.width,
        resize_shorter=image.resize_shorter,
        interpolation=image.interpolation,
    )


def in_shape(examples: Examples, image: ImagePreprocessing) -> Examples:
    """Images in the size and mode of the network; those that have them already stay as they are."""
    shape = (image.height, image.width, 3) if image.mode == "RGB" else (image.height, image.width)
    if isinstance(examples.inputs, tuple) or examples.inputs.shape[1:] == shape:
        return examples
    preprocessor = ImagePreprocessor(image)
    pixels = np.empty((len(examples), *shape), dtype=np.uint8)
    for row, stored in enumerate(examples.inputs):
        pixels[row] = np.asarray(preprocessor.resize(Image.fromarray(stored).convert(image.mode)))
    return Examples(pixels, examples.targets)
