"""What a graph may consist of, its inputs and outputs against the manifest, and the memory that it would take."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnx.onnx_ml_pb2 import ModelProto

from runtime import graph_sizes, graph_structure
from runtime.artifact import Artifact
from runtime.errors import ArtifactError
from runtime.graph import check_graph
from runtime.graph_sizes import check_stage, load_stages, load_with_limits
from tests.runtime.tampering import edit_graph

Damage = Callable[[ModelProto], Any]


def _append(model: ModelProto, *nodes: NodeProto, **constants: Any) -> None:
    """Add nodes behind those of a head, and constants that they read."""
    for name, value in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    model.graph.node.extend(nodes)


def _node(kind: str, *inputs: str, output: str = "extra", **attributes: Any) -> NodeProto:
    return helper.make_node(kind, list(inputs), [output], **attributes)


def _attribute(model: ModelProto, **fields: Any) -> None:
    """Add an attribute to the convolution, field by field."""
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    conv.attribute.append(onnx.AttributeProto(**fields))


def _twice(model: ModelProto) -> None:
    _append(model, _node("Relu", "conv", output="relu"))


def _shadow(model: ModelProto) -> None:
    _append(model, hidden=np.zeros((1, 8, 12, 12), dtype=np.float32))


def _sequence(model: ModelProto) -> None:
    value = helper.make_tensor_sequence_value_info("sequence", TensorProto.FLOAT, None)
    model.graph.value_info.append(value)


def _value(value: float) -> Damage:
    """Put a value into the dense classifier of a head."""

    def damage(model: ModelProto) -> None:
        tensor = next(n for n in model.graph.node if list(n.output) == ["classifier"]).attribute[0].t
        array = numpy_helper.to_array(tensor).copy()
        array[0, 0] = value
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))

    return damage


def _sparse_value(value: float) -> Damage:
    def damage(model: ModelProto) -> None:
        tensor = model.graph.node[0].attribute[0].sparse_tensor.values
        array = numpy_helper.to_array(tensor).copy()
        array[0] = value
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))

    return damage


STRUCTURE: dict[str, tuple[Damage, str]] = {
    "an ancient format": (lambda m: setattr(m, "ir_version", 2), "ir_version 2 is not one of 3 to 9"),
    "a future format": (lambda m: setattr(m, "ir_version", 10**9), "ir_version 1000000000 is not one of 3 to 9"),
    "training": (lambda m: m.training_info.add(), "information for training"),
    "a random operator": (lambda m: _append(m, _node("RandomNormal", shape=[2])), "RandomNormal is not one"),
    "an operator of a domain": (lambda m: setattr(m.graph.node[3], "domain", "x"), "is not one of the operators"),
    "an output whose size depends on values": (lambda m: _append(m, _node("NonZero", "conv")), "NonZero is not one of"),
    "a name twice": (_twice, "'relu' is defined twice"),
    "a constant with the name of an input": (_shadow, "'hidden' is defined twice"),
    "a giant name": (lambda m: _append(m, _node("Relu", "conv", output="x" * 1001)), "1001 characters, not 1 to 1000"),
    "a sequence": (_sequence, "'sequence' is not a tensor"),
    "a list of texts": (lambda m: _attribute(m, name="x", type=8, strings=[b"a"]), "of a kind that is not allowed"),
    "a value of another type": (lambda m: _attribute(m, name="x", type=2, f=1.0), "of a kind that is not allowed"),
    "a hidden subgraph": (lambda m: _attribute(m, name="x", type=2, g=onnx.GraphProto()), "holds a subgraph"),
    "a reference to a function": (lambda m: _attribute(m, name="x", type=2, ref_attr_name="y"), "not allowed"),
    "a giant attribute": (lambda m: _attribute(m, name="x", type=7, ints=[1] * 65537), "longer than 65536"),
    "an attribute twice": (lambda m: _attribute(m, name="pads", type=7, ints=[1] * 4), "has an attribute twice"),
    "sparse where none belongs": (lambda m: _attribute(m, name="sparse_value", type=11), "exactly the attributes"),
    "NaN": (_value(np.nan), "not finite"),
    "infinity in a weight": (_value(np.inf), "not finite"),
    "NaN in a sparse weight": (_sparse_value(np.nan), "not finite"),
    "infinity in a sparse weight": (_sparse_value(-np.inf), "finite"),
    "a bomb": (lambda m: m.graph.node[0].attribute[0].sparse_tensor.dims.__setitem__(0, 2**18), "too much for a file"),
}  # fmt: skip


def _head(artifact: Artifact) -> ModelProto:
    model = ModelProto()
    model.ParseFromString(artifact.path("head_0.onnx").read_bytes())
    return model


@pytest.mark.parametrize("what", STRUCTURE)
def test_what_a_graph_must_not_hold(image_artifact: Artifact, what: str) -> None:
    damage, problem = STRUCTURE[what]
    model = _head(image_artifact)
    check_graph(model, "good")
    damage(model)
    with pytest.raises(ArtifactError, match=problem):
        check_graph(model, "bad")


def test_a_single_infinity_may_fill_masks(image_artifact: Artifact) -> None:
    model = _head(image_artifact)
    _append(model, infinity=np.float32(-np.inf))
    check_graph(model, "good")


def _ints(*values: int) -> Any:
    return np.array(values, dtype=np.int64)


def _computed_reshape(model: ModelProto) -> None:
    """A shape from a value: rounding the logits says how many rows there are."""
    _append(
        model, _node("Cast", "flat", output="a", to=TensorProto.INT64), _node("Reshape", "a", "one", output="b"),
        _node("Slice", "b", "zero", "one", output="c"), _node("ConstantOfShape", "c"),
        zero=_ints(0), one=_ints(-1),
    )  # fmt: skip


MEMORY: dict[str, tuple[Damage, str]] = {
    "expand": (lambda m: _append(m, _node("Expand", "flat", "s"), s=_ints(2**24, 16, 8)), "Expand.*exceeds 4 GiB"),
    "constant of shape": (lambda m: _append(m, _node("ConstantOfShape", "s"), s=_ints(2**20, 2**20)), "exceeds 4 GiB"),
    "tile": (lambda m: _append(m, _node("Tile", "flat", "s"), s=_ints(2**20, 2**10)), "Tile.*exceeds 4 GiB"),
    "pad": (lambda m: _append(m, _node("Pad", "flat", "s"), s=_ints(0, 0, 2**20, 2**10)), "Pad.*exceeds 4 GiB"),
    "range": (
        lambda m: _append(m, _node("Range", "a", "b", "c"), a=np.int64(0), b=np.int64(2**40), c=np.int64(1)),
        "Range.*exceeds 4 GiB",
    ),
    "padding of a convolution": (
        lambda m: _append(m, _node("Conv", "hidden", "weight", kernel_shape=[3, 3], pads=[2**14] * 4)), "exceeds 4 GiB",
    ),
    "a size that depends on values": (_computed_reshape, "depends on values"),
}  # fmt: skip


@pytest.mark.parametrize("what", MEMORY)
def test_memory_is_bounded_before_an_engine_allocates_it(image_artifact: Artifact, what: str) -> None:
    damage, problem = MEMORY[what]
    model = _head(image_artifact)
    stage = image_artifact.manifest.heads[0]
    check_stage(model, image_artifact.manifest, stage, "good")
    damage(model)
    with pytest.raises(ArtifactError, match=problem):
        check_stage(model, image_artifact.manifest, stage, "bad")


def test_tensors_that_live_at_once_are_added_up(image_artifact: Artifact) -> None:
    """Eight times 2 GiB: too much together, and nothing when each is dead before the next is made."""
    stage = image_artifact.manifest.heads[0]
    big = 2**29 // 8 // 16

    def model(together: bool) -> ModelProto:
        made = _head(image_artifact)
        for index in range(9):
            _append(made, _node("Expand", "flat", "s", output=f"e{index}"))
            if not together:
                _append(made, _node("ReduceMax", f"e{index}", output=f"m{index}"))
        if together:
            _append(made, _node("Max", *(f"e{index}" for index in range(9)), output="all"))
        _append(made, s=_ints(big, 16, 8))
        return made

    check_stage(model(together=False), image_artifact.manifest, stage, "good")
    with pytest.raises(ArtifactError, match="16 rows need more than 16 GiB of memory at Expand 'e8'"):
        check_stage(model(together=True), image_artifact.manifest, stage, "bad")


def _gather(indices: str) -> Damage:
    """Read rows of the classifier at places."""
    return lambda model: _append(
        model, _node("Cast", "flat", output="computed", to=TensorProto.INT64), _node("Gather", "classifier", indices),
        good=_ints(0, 4, -5), low=_ints(-6), high=_ints(5),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("indices", "problem"),
    [("low", "reads -6 to -6 of 5 rows"), ("high", "reads 5 to 5 of 5 rows"), ("computed", "reads at computed places")],
)
def test_places_that_are_read_are_known_and_in_the_table(image_artifact: Artifact, indices: str, problem: str) -> None:
    stage = image_artifact.manifest.heads[0]
    good, bad = _head(image_artifact), _head(image_artifact)
    _gather("good")(good)
    check_stage(good, image_artifact.manifest, stage, "good")
    _gather(indices)(bad)
    with pytest.raises(ArtifactError, match=problem):
        check_stage(bad, image_artifact.manifest, stage, "bad")


def test_tables_that_inputs_index_have_a_limit(text_artifact: Artifact, image_artifact: Artifact) -> None:
    assert load_with_limits(text_artifact)[1] == {"input_ids": 29}
    assert load_with_limits(image_artifact)[1] == {}


def _another_output(model: ModelProto) -> None:
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("flat", TensorProto.FLOAT, ["batch", 8]))


def _undeclared(model: ModelProto) -> None:
    """Let the graph say nothing of the sizes of its output, which is allowed."""
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["any", "size"]))


def _fixed_batch(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def _more_classes(model: ModelProto) -> None:
    """Logits of more classes than labels."""
    model.graph.node[-1].output[0] = "few"
    _undeclared(model)
    _append(model, _node("Concat", "few", "few", output="logits", axis=1))


def _mixed_rows(model: ModelProto) -> None:
    """One row of logits whatever the batch."""
    model.graph.node[-1].output[0] = "all"
    _undeclared(model)
    _append(model, _node("ReduceMean", "all", output="logits", axes=[0], keepdims=1))


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (_another_output, r"has the outputs \('flat',\), the manifest says \('logits',\)"),
        (
            lambda m: m.graph.input.append(helper.make_tensor_value_info("x", 1, [1])),
            r"has the inputs \('hidden', 'x'\)",
        ),
        (_fixed_batch, r"axes \[1, 8, 12, 12\], the manifest says float32 \['batch', 8, 12, 12\]"),
        (_more_classes, r"shape \[1, 10\] for 1 rows, the manifest says float32 \[1, 5\]"),
        (_mixed_rows, r"shape \[1, 5\] for 16 rows, the manifest says float32 \[16, 5\]"),
        (lambda m: m.graph.node.pop(), "no operator computes the output 'logits'"),
    ],
)
def test_inputs_and_outputs_are_the_manifests(image_folder: Path, damage: Damage, problem: str) -> None:
    edit_graph(image_folder, "head_0.onnx", damage)
    with pytest.raises(ArtifactError, match=problem):
        load_stages(Artifact.open(image_folder))


def test_shapes_that_a_network_computes_are_followed() -> None:
    """The shipped text network splits attention heads by shapes that it computes."""
    artifact = Artifact.open("models/newsgroups")
    models = load_stages(artifact)
    assert set(models) == {stage.file for stage in artifact.manifest.stages}
    assert {"Shape", "Slice", "Mod", "Reshape"} <= {node.op_type for node in models["trunk.onnx"].graph.node}


def test_the_document_lists_the_operators_and_limits() -> None:
    document = " ".join(Path("docs/artifact.md").read_text(encoding="utf-8").split())
    [listed] = re.findall(r"Operators, all of the default domain: (.*?)\.", document)
    assert set(listed.split(", ")) == set(graph_structure.OPERATORS)
    for said in (
        f"at most {graph_structure.MAX_NODES:,} nodes",
        f"1 to {graph_structure.MAX_NAME} characters",
        f"at most {graph_structure.MAX_ATTRIBUTE:,} numbers or bytes",
        f"`ir_version` is {graph_structure.IR_VERSIONS[0]} to {graph_structure.IR_VERSIONS[1]}",
        f"No tensor has more than {graph_sizes.MAX_TENSOR_BYTES >> 30} GiB",
        f"at most {graph_sizes.MAX_WORK_BYTES >> 30} GiB",
        f"batch of {graph_sizes.CHECKED_ROWS} rows",
    ):
        assert said in document, said
