"""The parity rule and its walk, on a real engine and on made-up logits."""

from pathlib import Path

import numpy as np
import pytest

from runtime.artifact import Artifact
from runtime.engines import load_engine
from runtime.engines.base import EngineOptions
from runtime.errors import EngineError
from runtime.parity import RULES, compare, compare_int8, heads_parity, int8_slack
from runtime.verify import read_reference
from tests.engines import ENGINE_NAMES
from tests.runtime.conftest import CORES

LOGITS = np.array([[1.0, 3.0, 2.0], [-4.0, 0.0, 8.0]], dtype=np.float32)


@pytest.mark.parametrize(("off", "holds"), [(0.0, True), (7.9e-4, True), (-7.9e-4, True), (8.1e-4, False)])
def test_the_tolerance_grows_with_the_largest_logit(off: float, holds: bool) -> None:
    found = LOGITS.astype(np.float64)
    found[1, 1] += off
    parity = compare(LOGITS, found.astype(np.float32))
    assert parity.holds == holds
    assert parity.allowed == pytest.approx(8e-4)
    assert parity.worst == pytest.approx(abs(off), abs=1e-6)


@pytest.mark.parametrize(("off", "holds"), [(1.5, True), (-1.5, True), (1.7, False)])
def test_bf16_may_be_off_by_its_few_bits(off: float, holds: bool) -> None:
    found = LOGITS.copy()
    found[1, 1] += off
    assert RULES["bf16"](LOGITS, found).holds == holds
    assert not RULES["bf16"](LOGITS, LOGITS[::-1]).holds, "the logits of other rows pass"


@pytest.mark.parametrize(("off", "holds"), [(0.0, True), (0.25, True), (0.45, False)])
def test_int8_logits_may_be_off_by_a_little_all_together(off: float, holds: bool) -> None:
    """One of six is off: it may be off by 0.8, all together by 0.16 (root mean square)."""
    found = LOGITS.copy()
    found[1, 1] += off
    assert RULES["int8"](LOGITS, found).holds == holds


def test_one_int8_logit_may_be_off_by_more_but_not_by_any_amount() -> None:
    reference = np.tile(LOGITS, (50, 1))
    found = reference.copy()
    found[1, 1] += 0.79
    assert RULES["int8"](reference, found).holds
    found[1, 1] += 0.02
    assert not RULES["int8"](reference, found).holds
    assert not RULES["int8"](reference, np.full_like(reference, np.nan)).holds


@pytest.mark.parametrize(("moved", "slack"), [(0.0, 1.0), (0.04, 1.0), (0.06, 1.5), (0.08, 2.0), (5.0, 2.0)])
def test_int8_has_slack_where_quantization_moved_the_logits(
    moved: float, slack: float, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last head decides; the largest logit is 8."""
    artifact = Artifact.open(image_folder)
    reference = {f"{kind}.{head}": LOGITS for kind in ("logits", "quantized") for head in range(3)}
    reference["logits.2"] = LOGITS + np.float32(8 * moved)
    monkeypatch.setattr(Artifact, "reference", lambda _: reference)
    assert int8_slack(artifact) == pytest.approx(slack, abs=1e-5)
    found = LOGITS + np.float32(0.159 * slack)
    assert compare_int8(LOGITS, found, slack).holds
    assert not compare_int8(LOGITS, found, slack - 0.05).holds


@pytest.mark.parametrize(("margin", "flips"), [(1.9e-4, 0), (2.1e-4, 1)])
def test_only_a_clear_label_counts_as_flipped(margin: float, flips: int) -> None:
    reference = np.array([[0.0, margin]], dtype=np.float32)
    assert compare(reference, np.array([[0.5, 0.0]], dtype=np.float32)).flips == flips


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", ["reference", "logits", "both"])
def test_what_is_not_finite_never_agrees(value: float, side: str) -> None:
    """An infinite reference would allow an infinite difference."""
    broken = LOGITS.copy()
    broken[0, 1] = value
    assert not compare(broken if side != "logits" else LOGITS, broken if side != "reference" else LOGITS).holds


@pytest.mark.parametrize("name", ENGINE_NAMES)
def test_the_walk_covers_every_head_in_every_way(image_artifact: Artifact, name: str) -> None:
    engine = load_engine(image_artifact, name, EngineOptions(cores=CORES))
    inputs, references = read_reference(image_artifact)
    found = list(heads_parity(engine, inputs, references))
    assert [index for index, _ in found] == [0, 1, 2] * (2 if engine.one_program else 1)
    assert all(parity.holds for _, parity in found)
    changed = [references[0], references[2], references[2]]
    assert {index for index, parity in heads_parity(engine, inputs, changed) if not parity.holds} == {1}
    with pytest.raises(EngineError, match=r"shape \(32, 5\) for head 0 instead of \(32, 4\)"):
        list(heads_parity(engine, inputs, [references[0][:, :4]]))
    engine.close()


def test_a_precision_without_a_rule_is_an_error(image_artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load_engine(image_artifact, "onnxruntime", EngineOptions(cores=CORES))
    inputs, references = read_reference(image_artifact)
    monkeypatch.delitem(RULES, "fp32")
    with pytest.raises(EngineError, match="no parity rule for fp32"):
        list(heads_parity(engine, inputs, references))
