"""Networks of the user's own: registered by a file that is named explicitly, and every mistake named."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from pydantic import JsonValue, ValidationError

from training.checkpoint import Checkpoint
from training.config import CustomConfig, EnsembleConfig, TokenConfig, load_config, tokens_of
from training.errors import ConfigError
from training.models import registry
from training.models.build import build_network
from training.models.multihead import MultiHeadNetwork
from training.models.registry import load_networks

IMAGES = """
from torch import nn
from training.models.multihead import Parts
from training.models.registry import image_network

@image_network("lines")
def lines(*, classes: int, channels: int, width: int = 4) -> Parts:
    stem = nn.Sequential(nn.Flatten(), nn.Linear(channels * 4, width))
    return Parts(stem, [nn.Linear(width, width) for _ in range(2)], nn.Linear(width, classes))
"""


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test starts without networks, and leaves none."""
    monkeypatch.setattr(registry, "_REGISTERED", {})
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("networks_"):
            del sys.modules[name]


def write(folder: Path, text: str, name: str = "mine.py") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def build(name: str = "lines", *, text: TokenConfig | None = None, **arguments: JsonValue) -> MultiHeadNetwork:
    config = CustomConfig(kind="custom", name=name, text=text, arguments=arguments)
    return build_network(config, EnsembleConfig(heads=2, blocks_in_head=1), classes=3, channels=2, seed=7)


def test_a_registered_network_is_built_from_its_arguments(tmp_path: Path) -> None:
    load_networks([write(tmp_path, IMAGES)])
    network = build(width=6)
    assert network(torch.zeros(5, 2, 2, 2)).shape == (2, 5, 3)
    assert network.get_parameter("trunk.stem.1.weight").shape == (6, 8)


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    load_networks([write(tmp_path, IMAGES)])
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = build().state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert all(torch.equal(tensor, first[name]) for name, tensor in build().state_dict().items())


def test_a_file_can_be_loaded_again_and_says_then_what_it_says_then(tmp_path: Path) -> None:
    path = write(tmp_path, IMAGES)
    load_networks([path, path])
    write(tmp_path, IMAGES.replace("width: int = 4", "width: int = 9"))
    load_networks([str(path)])
    assert build().get_parameter("trunk.stem.1.weight").shape == (9, 8)


def test_a_network_that_reads_texts_gets_the_vocabulary_and_the_longest_length(tmp_path: Path) -> None:
    text = IMAGES.replace("image_network", "text_network").replace("channels: int", "vocabulary: int, max_tokens: int")
    text = text.replace("channels * 4", "vocabulary * max_tokens").replace(
        "nn.Linear(width, classes))", "nn.Linear(width, classes), inputs=('input_ids', 'attention_mask'))"
    )
    load_networks([write(tmp_path, text)])
    network = build(text=TokenConfig(vocabulary=11, lengths=(2, 5)))
    assert network.get_parameter("trunk.stem.1.weight").shape == (4, 55)
    with pytest.raises(ConfigError, match=r"'lines' reads texts, the recipe says images: give network\.text"):
        build()


def test_an_unregistered_network_says_which_option_to_pass(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'lines' is not registered\. Pass .* --networks my_networks\.py"):
        build()
    load_networks([write(tmp_path, IMAGES)])
    with pytest.raises(ConfigError, match="'circles' is not registered; registered are lines"):
        build("circles")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("classes: int, ", "", "do not fit lines.*unexpected keyword argument 'classes'"),
        ("-> Parts:\n", "-> Parts:\n    return None\n", "returned NoneType, not Parts"),
        (
            "nn.Linear(width, classes))",
            "nn.Linear(width, classes), inputs=('x',))",
            r"has inputs=\('image',\)",
        ),
        ("nn.Linear(width, classes))", "nn.Linear(width, classes), context=('x',))", "context 'x' is not one of"),
    ],
)
def test_a_builder_that_does_not_fit_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in IMAGES
    load_networks([write(tmp_path, IMAGES.replace(old, new))])
    with pytest.raises(ConfigError, match=message):
        build()


def test_arguments_that_do_not_fit_are_named(tmp_path: Path) -> None:
    load_networks([write(tmp_path, IMAGES)])
    with pytest.raises(ConfigError, match=r"lines\(.*width: int = 4\).*mine\.py.*unexpected keyword argument 'widht'"):
        build(widht=3)
    with pytest.raises(ConfigError, match=r"network.arguments: classes comes from the data"):
        build(classes=3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import torch\n1 / 0\n", r"mine\.py: ZeroDivisionError in line 2: division by zero"),
        ("def f(:\n", r"mine\.py: SyntaxError"),
        ("import no_such_package\n", r"mine\.py: ModuleNotFoundError in line 1: No module named 'no_such_package'"),
        ("x = 1\n", r"mine\.py: the file registers no network"),
    ],
)
def test_a_file_that_cannot_be_loaded_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_networks([write(tmp_path, text)])


def test_a_missing_file_and_one_that_is_no_python_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.py: there is no such file"):
        load_networks([tmp_path / "nothing.py"])
    with pytest.raises(ConfigError, match=r"mine\.txt: this is not a Python file"):
        load_networks([write(tmp_path, IMAGES, "mine.txt")])


def test_one_name_is_registered_once(tmp_path: Path) -> None:
    load_networks([write(tmp_path, IMAGES)])
    with pytest.raises(ConfigError, match=r"'lines' is registered twice, in .*mine\.py and in .*other\.py"):
        load_networks([write(tmp_path, IMAGES, "other.py")])


def test_a_recipe_says_what_a_custom_network_reads(image_recipe: Path, text_recipe: Path) -> None:
    config = load_config(image_recipe, ["network={kind: custom, name: lines, arguments: {width: 3}}"])
    assert tokens_of(config.network) is None
    config = load_config(text_recipe, ["network={kind: custom, name: lines, text: {vocabulary: 30}}"])
    assert tokens_of(config.network) == TokenConfig(vocabulary=30)
    with pytest.raises(ConfigError, match=r"custom does not go with data\.source=text-table"):
        load_config(text_recipe, ["network={kind: custom, name: lines}"])


@pytest.mark.parametrize("name", ["../mine.py", "os:system", "my networks", ""])
def test_a_name_is_never_a_path_or_a_module(name: str) -> None:
    with pytest.raises(ValidationError, match="name"):
        CustomConfig(kind="custom", name=name)


def test_a_checkpoint_runs_no_code_that_its_receiver_does_not_name(image_run: Path, tmp_path: Path) -> None:
    """A checkpoint made to look like one of a custom network, beside a file that would betray that it was run."""
    opened = Checkpoint.open(image_run)
    network = CustomConfig(kind="custom", name="lines", arguments={"networks": str(tmp_path / "lines.py")})
    folder = tmp_path / "received"
    folder.mkdir()
    config = opened.description.config.model_copy(update={"network": network})
    description = opened.description.model_copy(update={"config": config})
    (folder / "config.json").write_text(description.model_dump_json())
    (folder / "metrics.json").write_text("{}")
    for name in ("lines.py", "received/lines.py", "received/__init__.py"):
        write(tmp_path, f"open({str(tmp_path / 'was-run')!r}, 'w')", name)
    with pytest.raises(ConfigError, match="'lines' is not registered"):
        Checkpoint.open(folder).network()
    assert not (tmp_path / "was-run").exists()
