from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from training.data import DataConfig, ImageConfig

IMAGE = {"mode": "RGB", "height": 32, "width": 24}


@pytest.mark.parametrize(
    "fields",
    [
        {"source": "fashion-mnist"},
        {"source": "newsgroups", "path": "data", "held_out": 0.1},
        {"source": "image-folder", "path": "data", "image": IMAGE},
        {"source": "text-table", "path": "train.csv", "test_path": "test.csv"},
    ],
)
def test_valid_configurations_survive_a_round_trip(fields: dict[str, Any]) -> None:
    config = DataConfig.model_validate(fields)
    assert DataConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"source": "mnist"}, "source"),
        ({"source": "image-folder", "image": IMAGE}, "needs `path`"),
        ({"source": "text-table"}, "needs `path`"),
        ({"source": "image-folder", "path": "data"}, "needs `image`"),
        ({"source": "text-table", "path": "a.csv", "image": IMAGE}, "image-folder and imagenet only"),
        ({"source": "newsgroups", "test_path": "a"}, "remove test_path a"),
        ({"source": "newsgroups", "held_out": 0.34}, "held_out"),
        ({"source": "newsgroups", "held_out": 0}, "held_out"),
        ({"source": "newsgroups", "paht": "a"}, "paht"),
    ],
)
def test_invalid_configurations_are_refused_with_the_reason(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DataConfig.model_validate(fields)


def test_image_config_is_the_serving_preprocessing() -> None:
    image = ImageConfig.model_validate(IMAGE)
    spec = image.preprocessing((0.5,) * 3, (0.25,) * 3)
    assert (spec.mode, spec.height, spec.width, spec.resize_shorter) == ("RGB", 32, 24, 32)
    with pytest.raises(ValidationError, match="resize_shorter is 16; it must be at least 32"):
        ImageConfig(mode="L", height=32, width=24, resize_shorter=16)


def test_paths_are_paths() -> None:
    assert DataConfig(source="newsgroups", path=Path("x")).path == Path("x")
