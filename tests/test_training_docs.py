"""The code in docs/training.md, run as a user runs it: own networks on own data, from training to every engine."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from neurotrails import main
from runtime.artifact import Artifact
from runtime.engines import load_engine
from runtime.engines.base import EngineOptions
from tests.engines import ENGINE_NAMES

DOCS = Path("docs/training.md").read_text()
PYTHON = {block.split("\n", 1)[0]: block for block in re.findall(r"```python\n# (.*?)```", DOCS, re.DOTALL)}
"""File name -> code, as the document shows them."""
NETWORK_RECIPES = re.findall(r"```yaml\n(network:.*?)```", DOCS, re.DOTALL)


def lines_of_code(block: str) -> int:
    return sum(bool(line.strip()) for line in block.splitlines()[1:])


def test_the_document_shows_both_networks_in_under_30_lines() -> None:
    assert {name: lines_of_code(block) < 30 for name, block in PYTHON.items()} == {
        "my_networks.py": True,
        "bert_networks.py": True,
    }


def recipe_with(recipe: Path, folder: Path, shown: str, **arguments: int) -> Path:
    """The tiny recipe with the network (and split) that the document shows, made as tiny."""
    document, network = yaml.safe_load(recipe.read_text()), yaml.safe_load(shown)
    document |= network
    document["network"]["arguments"] = arguments
    if "text" in document["network"]:
        document["network"]["text"] = {"vocabulary": 120, "lengths": [8, 16]}
    path = folder / recipe.name
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture(scope="session", params=["my_networks.py", "bert_networks.py"])
def own_run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run of a network that the document shows, and the file that registers it; trained in a process of its own."""
    folder = tmp_path_factory.mktemp("own")
    if request.param == "my_networks.py":
        recipe = recipe_with(request.getfixturevalue("image_recipe"), folder, NETWORK_RECIPES[0], width=4)
    else:
        sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
        recipe = recipe_with(request.getfixturevalue("text_recipe"), folder, NETWORK_RECIPES[1], **sizes)
    networks = folder / request.param
    networks.write_text(f"# {PYTHON[request.param]}")
    command = ["train", str(recipe), "--run", str(folder / "run"), "--networks", str(networks)]
    subprocess.run([sys.executable, "-W", "error", "-m", "neurotrails", *command], check=True)
    return folder / "run", networks


def test_a_network_of_ones_own_is_trained_evaluated_exported_and_served(
    own_run: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, networks = own_run
    assert main(["evaluate", str(run), "--part", "report", "--networks", str(networks)]) == 0
    assert "accuracy" in capsys.readouterr().out
    assert main(["export", str(run), str(tmp_path / "artifact"), "--networks", str(networks)]) == 0
    artifact = Artifact.open(tmp_path / "artifact")
    kept = artifact.manifest.sparsity
    assert (kept.kept, artifact.manifest.trunk is not None) == (round(0.25 * kept.weights), True)
    reference = artifact.reference()
    inputs = {spec.name: reference[f"input.{spec.name}"] for spec in artifact.manifest.inputs}
    for name in ENGINE_NAMES:
        engine = load_engine(artifact, name, EngineOptions(cores=1, batch_sizes=(32,)))
        features = engine.trunk(inputs)
        for head in range(len(artifact.manifest.heads)):
            logits = engine.head(head, features)
            np.testing.assert_allclose(logits, np.float32(reference[f"logits.{head}"]), rtol=1e-4, atol=1e-4)
