"""How generated kernels and their twins are compared; what they compute is tested beside the kernels."""

import subprocess
import sys
from pathlib import Path

import pytest

from environment import REPOSITORY
from native_twins import SIDES, TwinnedStep, TwinResults, summary
from twins import TWINNED, NoTwins, compile_twins

SCRIPT = REPOSITORY / "benchmarks" / "native_twins.py"


def step(generated: float, twin: float) -> TwinnedStep:
    return TwinnedStep(
        work="net", kernel="stream", label="layer", tile=4, macs=12, runs=3,
        seconds={"generated": generated, "twin": twin}, ratio=generated / twin,
    )  # fmt: skip


@pytest.mark.parametrize(("twins", "met"), [((1.0, 3.0), True), ((1.0, 2.6), False)])
def test_a_kernel_is_judged_by_all_its_layers_together(twins: tuple[float, float], met: bool) -> None:
    found = summary("stream", [step(1.2, twins[0]), step(2.8, twins[1])])
    assert found.seconds == {"generated": 4.0, "twin": sum(twins)}
    assert found.ratio == pytest.approx(4.0 / sum(twins))
    assert found.worst_ratio == pytest.approx(1.2)
    assert found.macs_per_second["generated"] == 6.0
    assert found.met is met


def test_a_run_compares_every_kernel(tmp_path: Path) -> None:
    try:
        compile_twins(tmp_path)
    except NoTwins as error:
        pytest.skip(str(error))
    output = tmp_path / "results"
    output.mkdir()
    options = ["--works", "tiny", "tiny-encoder", "--runs", "2"]
    done = subprocess.run(
        [sys.executable, SCRIPT, *options, "--output", output], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert [path.name for path in output.iterdir()] == ["native_twins_smoke.json"]
    results = TwinResults.model_validate_json((output / "native_twins_smoke.json").read_bytes())
    assert results.smoke
    assert {each.kernel for each in results.kernels} == set(TWINNED)
    for each in results.steps:
        assert set(each.seconds) == set(SIDES)
        assert min(each.seconds.values()) > 0
        assert each.label in done.stdout
