"""Small but genuine artifacts for tests: real ONNX graphs with sparse weights, a real tokenizer, a valid manifest.

The reference logits are computed here in numpy, without ONNX, so an engine that reproduces them runs the graphs right.
"""

import hashlib
from collections.abc import Sequence
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.onnx_ml_pb2 import NodeProto, TensorProto
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace

from runtime.artifact import MANIFEST
from runtime.manifest import (
    Calibration,
    EarlyExit,
    ExitPoint,
    FileEntry,
    ImagePreprocessing,
    LayerSparsity,
    Manifest,
    Preprocessing,
    Provenance,
    Sparsity,
    Stage,
    TensorSpec,
    TextPreprocessing,
)

Floats = NDArray[np.float32]

REFERENCE_ROWS = 32
SIDE = 12
"""Height and width of the images of the tiny image artifact, which are grey."""
CHANNELS = 8
IMAGE_LABELS = ("circle", "square", "triangle", "star", "cross")
WIDTH = 16
"""Embedding width of the tiny text artifact."""
LENGTHS = (8, 32)
TEXT_LABELS = ("sports", "science", "politics", "cars")
WORDS = (
    "the", "a", "of", "and", "in", "on", "ball", "game", "team", "score", "goal", "star", "planet", "atom",
    "light", "energy", "vote", "law", "party", "state", "tax", "engine", "wheel", "road", "brake", "fuel",
    "driver",
)  # fmt: skip


def write_tiny_image_artifact(
    folder: Path, *, heads: int = 3, name: str = "tiny-image", version: str = "1", seed: int = 0
) -> Manifest:
    """Write an artifact for grey 12x12 images: trunk Conv+Relu, heads Conv+Relu+GlobalAveragePool+Gemm.

    The convolutions are sparse (density 0.25, `sparse_value` constants), the classifiers dense.
    """
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    layers: list[LayerSparsity] = []
    trunk_weight = _sparse_weight(generator, (CHANNELS, 1, 3, 3), density=0.5)
    layers.append(_layer("weight", "trunk.onnx", trunk_weight, masked=True))
    _write_graph(
        folder / "trunk.onnx",
        [
            _sparse_constant("weight", trunk_weight),
            helper.make_node("Conv", ["image", "weight"], ["conv"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["conv"], ["hidden"]),
        ],
        [("image", TensorProto.FLOAT, ["batch", 1, SIDE, SIDE])],
        [("hidden", ["batch", CHANNELS, SIDE, SIDE])],
    )
    images = generator.standard_normal((REFERENCE_ROWS, 1, SIDE, SIDE)).astype(np.float32)
    hidden = _relu(_conv(images, trunk_weight))
    reference = {"input.image": images}
    stages = []
    for index in range(heads):
        file = f"head_{index}.onnx"
        weight = _sparse_weight(generator, (CHANNELS, CHANNELS, 3, 3), density=0.25)
        classifier = (4 * generator.standard_normal((len(IMAGE_LABELS), CHANNELS))).astype(np.float32)
        bias = generator.standard_normal(len(IMAGE_LABELS)).astype(np.float32)
        _write_graph(
            folder / file,
            [
                _sparse_constant("weight", weight),
                _dense_constant("classifier", classifier),
                _dense_constant("bias", bias),
                helper.make_node("Conv", ["hidden", "weight"], ["conv"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
                helper.make_node("Relu", ["conv"], ["relu"]),
                helper.make_node("GlobalAveragePool", ["relu"], ["pooled"]),
                helper.make_node("Flatten", ["pooled"], ["flat"]),
                helper.make_node("Gemm", ["flat", "classifier", "bias"], ["logits"], transB=1),
            ],
            [("hidden", TensorProto.FLOAT, ["batch", CHANNELS, SIDE, SIDE])],
            [("logits", ["batch", len(IMAGE_LABELS)])],
        )
        layers += [
            _layer("weight", file, weight, masked=True),
            _layer("classifier", file, classifier, masked=False),
        ]
        pooled = _relu(_conv(hidden, weight)).mean(axis=(2, 3))
        reference[f"logits.{index}"] = (pooled @ classifier.T + bias).astype(np.float32)
        effective = np.count_nonzero(weight) * SIDE * SIDE + classifier.size
        dense = weight.size * SIDE * SIDE + classifier.size
        stages.append(
            Stage(file=file, inputs=("hidden",), outputs=("logits",), dense_macs=dense, effective_macs=effective)
        )
    trunk = Stage(
        file="trunk.onnx",
        inputs=("image",),
        outputs=("hidden",),
        dense_macs=trunk_weight.size * SIDE * SIDE,
        effective_macs=np.count_nonzero(trunk_weight) * SIDE * SIDE,
    )
    return _finish(
        folder,
        name=name,
        version=version,
        inputs=(TensorSpec(name="image", dtype="float32", shape=("batch", 1, SIDE, SIDE)),),
        preprocessing=ImagePreprocessing(
            mode="L", height=SIDE, width=SIDE, resize_shorter=SIDE, mean=(0.5,), std=(0.25,)
        ),
        features=(TensorSpec(name="hidden", dtype="float32", shape=("batch", CHANNELS, SIDE, SIDE)),),
        labels=IMAGE_LABELS,
        trunk=trunk,
        heads=tuple(stages),
        layers=tuple(layers),
        reference=reference,
        seed=seed,
    )


def write_tiny_text_artifact(
    folder: Path, *, heads: int = 3, name: str = "tiny-text", version: str = "1", seed: int = 0
) -> Manifest:
    """Write an artifact for texts: trunk embedding+MatMul+Relu, heads masked mean+Gemm with a sparse classifier.

    The tokenizer knows `WORDS` in any case; everything else is [UNK].
    """
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    vocabulary = {word: index for index, word in enumerate(("[PAD]", "[UNK]", *WORDS))}
    _tokenizer(vocabulary).save(str(folder / "tokenizer.json"))
    embedding = generator.standard_normal((len(vocabulary), WIDTH)).astype(np.float32)
    mixing = _sparse_weight(generator, (WIDTH, WIDTH), density=0.25)
    layers = [_layer("mixing", "trunk.onnx", mixing, masked=True)]
    _write_graph(
        folder / "trunk.onnx",
        [
            _dense_constant("embedding", embedding),
            _sparse_constant("mixing", mixing),
            helper.make_node("Gather", ["embedding", "input_ids"], ["embedded"]),
            helper.make_node("MatMul", ["embedded", "mixing"], ["mixed"]),
            helper.make_node("Relu", ["mixed"], ["hidden"]),
        ],
        [("input_ids", TensorProto.INT64, ["batch", "tokens"])],
        [("hidden", ["batch", "tokens", WIDTH])],
    )
    ids = generator.integers(1, len(vocabulary), (REFERENCE_ROWS, LENGTHS[0]))
    mask = (np.arange(LENGTHS[0]) < generator.integers(1, LENGTHS[0] + 1, REFERENCE_ROWS)[:, None]).astype(np.int64)
    ids = ids * mask
    hidden = _relu(embedding[ids] @ mixing)
    weights = mask[..., None].astype(np.float32)
    pooled = (hidden * weights).sum(axis=1) / weights.sum(axis=1)
    reference: dict[str, NDArray[Any]] = {"input.input_ids": ids, "input.attention_mask": mask}
    stages = []
    for index in range(heads):
        file = f"head_{index}.onnx"
        classifier = 2 * _sparse_weight(generator, (len(TEXT_LABELS), WIDTH), density=0.3)
        _write_graph(
            folder / file,
            [
                _sparse_constant("classifier", classifier),
                _dense_constant("axes", np.array([1], dtype=np.int64)),
                _dense_constant("last", np.array([2], dtype=np.int64)),
                helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
                helper.make_node("Unsqueeze", ["mask", "last"], ["weights"]),
                helper.make_node("Mul", ["hidden", "weights"], ["kept"]),
                helper.make_node("ReduceSum", ["kept", "axes"], ["sum"], keepdims=0),
                helper.make_node("ReduceSum", ["weights", "axes"], ["count"], keepdims=0),
                helper.make_node("Div", ["sum", "count"], ["pooled"]),
                helper.make_node("Gemm", ["pooled", "classifier"], ["logits"], transB=1),
            ],
            [
                ("hidden", TensorProto.FLOAT, ["batch", "tokens", WIDTH]),
                ("attention_mask", TensorProto.INT64, ["batch", "tokens"]),
            ],
            [("logits", ["batch", len(TEXT_LABELS)])],
        )
        layers.append(_layer("classifier", file, classifier, masked=True))
        reference[f"logits.{index}"] = (pooled @ classifier.T).astype(np.float32)
        stages.append(
            Stage(
                file=file,
                inputs=("hidden", "attention_mask"),
                outputs=("logits",),
                dense_macs=classifier.size,
                effective_macs=np.count_nonzero(classifier),
            )
        )
    trunk = Stage(
        file="trunk.onnx",
        inputs=("input_ids",),
        outputs=("hidden",),
        dense_macs=mixing.size * LENGTHS[-1],
        effective_macs=np.count_nonzero(mixing) * LENGTHS[-1],
    )
    return _finish(
        folder,
        name=name,
        version=version,
        inputs=(
            TensorSpec(name="input_ids", dtype="int64", shape=("batch", "tokens")),
            TensorSpec(name="attention_mask", dtype="int64", shape=("batch", "tokens")),
        ),
        preprocessing=TextPreprocessing(pad_id=0, lengths=LENGTHS),
        features=(TensorSpec(name="hidden", dtype="float32", shape=("batch", "tokens", WIDTH)),),
        labels=TEXT_LABELS,
        trunk=trunk,
        heads=tuple(stages),
        layers=tuple(layers),
        reference=reference,
        seed=seed,
    )


def _finish(
    folder: Path,
    *,
    name: str,
    version: str,
    inputs: tuple[TensorSpec, ...],
    preprocessing: Preprocessing,
    features: tuple[TensorSpec, ...],
    labels: tuple[str, ...],
    trunk: Stage,
    heads: tuple[Stage, ...],
    layers: tuple[LayerSparsity, ...],
    reference: dict[str, NDArray[Any]],
    seed: int,
) -> Manifest:
    """Write reference.safetensors and the manifest with the hashes of everything in `folder`."""
    save_file(
        {key: np.ascontiguousarray(tensor) for key, tensor in reference.items()}, folder / "reference.safetensors"
    )
    files = {
        path.name: FileEntry(bytes=path.stat().st_size, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
        for path in sorted(folder.iterdir())
    }
    manifest = Manifest(
        name=name,
        version=version,
        modality=preprocessing.kind,
        description="Random weights, for tests.",
        inputs=inputs,
        preprocessing=preprocessing,
        features=features,
        labels=labels,
        trunk=trunk,
        heads=heads,
        precision="fp32",
        vote="probabilities",
        calibration=Calibration(temperatures=(1.0,) * len(heads), split="none", rows=0),
        early_exit=EarlyExit(
            split="none", rows=0, points=(ExitPoint(min_confidence=1.0, accuracy=0.0, mean_heads=len(heads)),)
        ),
        sparsity=Sparsity(
            layers=layers,
            weights=sum(layer.weights for layer in layers),
            kept=sum(layer.kept for layer in layers),
            nonzero=sum(layer.nonzero for layer in layers),
        ),
        evaluation=(),
        provenance=Provenance(
            config_sha256=hashlib.sha256(b"").hexdigest(),
            code_version="tests",
            command="tests/artifacts.py",
            seed=seed,
            data_source="none: random weights",
            steps=0,
            packages={"onnx": package_version("onnx")},
        ),
        files=files,
    )
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2))
    return manifest


def _sparse_weight(generator: np.random.Generator, shape: tuple[int, ...], *, density: float) -> Floats:
    """Exactly round(density * size) entries, N(0, 2 / non-zero fan-in): small, but the activations stay alive."""
    size = int(np.prod(shape))
    kept = round(density * size)
    weight = np.zeros(size, dtype=np.float32)
    fan_in = kept / shape[0]
    weight[generator.permutation(size)[:kept]] = generator.standard_normal(kept) * np.sqrt(2 / fan_in)
    return weight.reshape(shape)


def _layer(name: str, stage: str, weight: Floats, *, masked: bool) -> LayerSparsity:
    nonzero = int(np.count_nonzero(weight))
    kept = nonzero if masked else weight.size
    return LayerSparsity(
        name=name, stage=stage, shape=weight.shape, weights=weight.size, kept=kept, nonzero=nonzero, masked=masked
    )


def _sparse_constant(name: str, weight: Floats) -> NodeProto:
    """Make a Constant node with attribute `sparse_value`: COO, linear int64 indices, ascending."""
    indices = np.flatnonzero(weight).astype(np.int64)
    values = helper.make_tensor(name, TensorProto.FLOAT, [len(indices)], weight.reshape(-1)[indices])
    positions = helper.make_tensor(f"{name}_indices", TensorProto.INT64, [len(indices)], indices)
    sparse = helper.make_sparse_tensor(values, positions, list(weight.shape))
    return helper.make_node("Constant", [], [name], sparse_value=sparse)


def _dense_constant(name: str, value: NDArray[Any]) -> NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value, name))


def _write_graph(
    path: Path,
    nodes: Sequence[NodeProto],
    inputs: Sequence[tuple[str, int, list[int | str]]],
    outputs: Sequence[tuple[str, list[int | str]]],
) -> None:
    graph = helper.make_graph(
        nodes,
        path.stem,
        [helper.make_tensor_value_info(name, dtype, shape) for name, dtype, shape in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))


def _tokenizer(vocabulary: dict[str, int]) -> Tokenizer:
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = Lowercase()
    tokenizer.pre_tokenizer = Whitespace()
    return tokenizer


def _conv(images: Floats, weight: Floats) -> Floats:
    """3x3 convolution with padding 1 of [batch, in, height, width] by [out, in, 3, 3]."""
    height, width = images.shape[2:]
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    result = np.zeros((len(images), len(weight), height, width), dtype=np.float32)
    for y, x in np.ndindex(3, 3):
        result += np.einsum("bihw,oi->bohw", padded[:, :, y : y + height, x : x + width], weight[:, :, y, x])
    return result


def _relu(values: Floats) -> Floats:
    return np.maximum(values, 0)
