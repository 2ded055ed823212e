"""Recipes and overrides: what is wrong is named."""

from pathlib import Path

import pytest

from training.config import load_config
from training.errors import ConfigError

RECIPES = sorted(Path("recipes").glob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_valid(recipe: Path) -> None:
    assert load_config(recipe).name == recipe.stem


def test_there_are_recipes() -> None:
    assert RECIPES


def test_overrides_reach_into_sections() -> None:
    config = load_config(RECIPES[0], ["sparsity.density=0.1", "epochs=2", "clip_norm=null"])
    assert (config.sparsity.density, config.epochs, config.clip_norm) == (0.1, 2, None)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epochs", "looks like optimizer.lr=0.05; got 'epochs'"),
        ("epochs=0", r"epochs: .*greater than or equal to 1 \(got 0\)"),
        ("epochs.more=1", "epochs is not a section"),
        ("sparsity.density=1.5", r"sparsity.density: .*less than or equal to 1 \(got 1.5\)"),
        ("optimizer.rate=1", "optimizer.rate: Extra inputs are not permitted"),
        ("network.kind=vgg", "network: .*wide_resnet"),
        ("data.source=newsgroups", "network.kind=wide_resnet does not go with data.source=newsgroups"),
        ("name=../escape", "name: "),
        ("epochs=[", "the value is not YAML"),
    ],
)
def test_a_bad_override_is_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config("recipes/fashion-mnist.yaml", [override])


def test_a_missing_or_odd_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.yaml cannot be read"):
        load_config(tmp_path / "nothing.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(ConfigError, match="must be a YAML mapping"):
        load_config(tmp_path / "list.yaml")


def test_the_hash_depends_on_every_value() -> None:
    first = load_config(RECIPES[0])
    assert first.sha256 == load_config(RECIPES[0]).sha256
    assert first.sha256 != load_config(RECIPES[0], ["seed=99"]).sha256
