"""What the Open Inference Protocol says of the server and of a model: metadata and configuration."""

from importlib.metadata import version
from typing import Any

from runtime.manifest import ImagePreprocessing, Manifest
from runtime.preprocess import IMAGE_FORMATS
from server.oip.reply import OUTPUTS
from server.oip.request import INPUT
from server.work import ModelCard

EXTENSIONS = ("binary_tensor_data", "classification", "model_configuration", "parameters", "statistics")
CONFIG_TYPES = {"BYTES": "TYPE_STRING", "FP32": "TYPE_FP32", "INT64": "TYPE_INT64"}
"""Datatype -> what the model configuration calls it."""


def server_metadata() -> dict[str, Any]:
    """Build the reply of /v2."""
    return {"name": "neurotrails", "version": version("neurotrails"), "extensions": list(EXTENSIONS)}


def model_metadata(card: ModelCard) -> dict[str, Any]:
    """Build the reply of /v2/models/NAME. The first dimension of every tensor is the rows of the request."""
    manifest = card.manifest
    return {
        "name": manifest.name,
        "versions": [manifest.version],
        "platform": f"neurotrails_{card.engine.name}",
        "inputs": [{"name": INPUT, "datatype": "BYTES", "shape": [-1], "parameters": input_forms(manifest)}],
        "outputs": [
            {"name": name, "datatype": datatype, "shape": _output_shape(name, manifest)}
            for name, (datatype, _) in OUTPUTS.items()
        ],
    }


def model_config(card: ModelCard) -> dict[str, Any]:
    """Build the reply of /v2/models/NAME/config: the fields of Triton's ModelConfig that mean something here."""
    manifest, engine = card.manifest, card.engine
    told = {
        "heads": str(len(manifest.heads)),
        "vote": manifest.vote,
        "modality": manifest.modality,
        "precision": manifest.precision,
        "density": f"{manifest.sparsity.density:.6g}",
    }
    return {
        "name": manifest.name,
        "platform": "",
        "backend": f"neurotrails_{engine.name}",
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": 0,  # shapes are complete: rows come first, as many as the server's limit allows
        "input": [{"name": INPUT, "data_type": "TYPE_STRING", "dims": [-1]}],
        "output": [
            {"name": name, "data_type": CONFIG_TYPES[datatype], "dims": _output_shape(name, manifest)}
            for name, (datatype, _) in OUTPUTS.items()
        ],
        "instance_group": [{"name": manifest.name, "kind": "KIND_CPU", "count": 1}],
        "parameters": {name: {"string_value": value} for name, value in told.items()},
    }


def input_forms(manifest: Manifest) -> dict[str, str]:
    """For each datatype that the input takes, what it holds."""
    spec = manifest.preprocessing
    if not isinstance(spec, ImagePreprocessing):
        return {"BYTES": "[-1]: texts in UTF-8"}
    mean, std = ([float(f"{value:.6g}") for value in values] for values in (spec.mean, spec.std))
    return {
        "BYTES": f"[-1]: image files ({', '.join(IMAGE_FORMATS)}); in JSON as base64, with content_type base64",
        "FP32": f"[-1, {len(spec.mean)}, {spec.height}, {spec.width}]: preprocessed images, each channel "
        f"(value / 255 - mean) / std with mean {mean} and std {std}",
        "UINT8": "[-1, -1, -1, 1] or [-1, -1, -1, 3]: decoded images, grey or RGB, of any size",
    }


def _output_shape(name: str, manifest: Manifest) -> list[int]:
    match name:
        case "probabilities":
            return [-1, len(manifest.labels)]
        case "head_probabilities":
            return [-1, -1, len(manifest.labels)]
    return [-1]
