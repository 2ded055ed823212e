import pytest

from runtime.artifact import Artifact
from runtime.engines import ENGINES
from runtime.errors import EngineError, EngineNotInstalled
from runtime.tuning.candidates import candidates, shares
from runtime.tuning.records import Setup


def find(artifact: Artifact, **changes: object) -> tuple[list[Setup], list[str]]:
    options = {"cores": 2, "engines": (), "precisions": ("fp32",), "accept_deepsparse_licence": True}
    return candidates(artifact, **{**options, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cores", "expected"),
    [
        (1, [(1, 1)]),
        (2, [(2, 1), (2, 2), (1, 1)]),
        (3, [(3, 1), (3, 2), (3, 3), (1, 1)]),
        (8, [(8, 1), (8, 2), (8, 8), (4, 1), (1, 1)]),
    ],
)
def test_cores_are_used_in_a_few_ways(cores: int, expected: list[tuple[int, int]]) -> None:
    assert shares(cores) == expected


def test_engines_without_parallel_calls_are_not_tried_with_streams(image_artifact: Artifact) -> None:
    setups, _ = find(image_artifact)
    assert {(one.cores, one.streams) for one in setups if one.engine == "native"} == {(2, 1), (1, 1)}
    assert {(one.cores, one.streams) for one in setups if one.engine == "onnxruntime"} == set(shares(2))
    assert len(set(setups)) == len(setups)


def test_deepsparse_needs_its_licence_accepted(image_artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    from runtime.engines.onnxruntime import OnnxRuntimeEngine

    class Named(OnnxRuntimeEngine):
        name = "deepsparse"

    monkeypatch.setattr("runtime.tuning.candidates.installed_engines", lambda: {"deepsparse": Named})
    with pytest.raises(EngineError, match="nothing to try: deepsparse: its licence covers evaluation only"):
        find(image_artifact, accept_deepsparse_licence=False)
    assert find(image_artifact)[0]


def test_what_is_missing_or_unfit_is_said(image_artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = EngineNotInstalled("pip install it")
    monkeypatch.setattr(
        "runtime.tuning.candidates.installed_engines",
        lambda: {"abacus": missing, "native": __import__("runtime.engines").engines.engine_class("native")},
    )
    setups, left_out = find(image_artifact, precisions=("fp32", "bf16"))
    assert {one.engine for one in setups} == {"native"}
    assert {one.precision for one in setups} == {"fp32"}
    assert left_out == ["abacus: pip install it", "native bf16: of artifacts stored as fp32 it executes fp32"]


def test_named_engines_must_exist(image_artifact: Artifact) -> None:
    assert {one.engine for one in find(image_artifact, engines=("onnxruntime",))[0]} == {"onnxruntime"}
    with pytest.raises(EngineError, match=f"no engine 'abacus'. Choose one of: auto, {', '.join(ENGINES)}"):
        find(image_artifact, engines=("abacus",))
    with pytest.raises(EngineError, match="cores must be at least 1, not 0"):
        find(image_artifact, cores=0)
