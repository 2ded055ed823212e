"""`inspect --plan`: what it shows is the plan of the native engine, and its sums are those of its waves."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile

import pytest

from runtime.artifact import Artifact
from runtime.engines.base import EngineOptions
from runtime.engines.native.engine import NativeEngine
from runtime.engines.native.plan import Plan
from runtime.errors import EngineError
from runtime.inspection.inspect import inspect
from runtime.inspection.plan import COLUMNS, LAYER_WIDTH, PlanReport, Total, Wave, examine, render
from tests.artifacts import CHANNELS, IMAGE_LABELS, LENGTHS, SIDE


def _plan(artifact: Artifact, heads: int, cores: int) -> Plan:
    engine = NativeEngine(artifact, EngineOptions(cores=cores))
    try:
        return engine.plan(heads)
    finally:
        engine.close()


def _rows(lines: Sequence[str], first: str) -> list[list[str]]:
    """Cells of the lines below the header `first`, up to an empty line."""
    start = next(index for index, line in enumerate(lines) if line.split()[:2] == ["kernel", first])
    return [line.split() for line in takewhile(bool, lines[start + 1 :])]


@pytest.mark.parametrize(("heads", "cores"), [(1, 1), (3, 2)])
def test_every_wave_of_the_plan_is_shown_with_a_time(artifact: Artifact, heads: int, cores: int) -> None:
    report = examine(artifact, heads=heads, cores=cores, rounds=2)
    plan = _plan(artifact, heads, cores)
    assert [wave.labels for wave in report.waves] == [tuple(step.label for step in wave) for wave in plan.waves]
    assert [wave.macs for wave in report.waves] == [sum(step.macs for step in wave) for wave in plan.waves]
    assert all(wave.measured_seconds > 0 for wave in report.waves)
    assert {len(wave.labels) for wave in report.waves} == {1, heads}
    for wave, steps in zip(report.waves, plan.waves, strict=True):
        convolves = any(step.kernel in ("stream", "dense") for step in steps)
        assert (wave.predicted_seconds is not None) == convolves == (wave.weight_bytes > 0)
        assert wave.predicted_seconds is None or wave.predicted_seconds == sum(step.seconds for step in steps)
    assert (report.arena_bytes, report.scratch_bytes) == (plan.arena_bytes, plan.scratch_bytes)
    assert (report.heads, report.cores) == (heads, cores)
    assert report.tokens == (LENGTHS[-1] if artifact.manifest.modality == "text" else None)


def test_work_is_that_of_the_kept_weights(image_artifact: Artifact) -> None:
    stages = image_artifact.manifest.stages
    assert examine(image_artifact, rounds=1).total.macs == sum(stage.effective_macs for stage in stages)


def test_weights_are_counted_as_they_are_packed(image_artifact: Artifact) -> None:
    report = examine(image_artifact, heads=1, cores=1, rounds=1)
    waves = [wave for wave in report.waves if wave.weight_bytes]
    for wave, (step,) in zip(
        waves, (steps for steps in _plan(image_artifact, 1, 1).waves if steps[0].macs), strict=True
    ):
        if wave.kernel.endswith("stream"):
            blocks, parts, kept = step.fields["blocks"], step.fields["part_count"], wave.macs // SIDE**2
            rows = 4 * CHANNELS * blocks
            cuts = 8 * blocks + 4 * blocks * parts + 4 * (parts + 1)
            assert wave.weight_bytes == 6 * kept + rows + cuts + 4 * CHANNELS  # with the bias
        else:
            outputs = len(IMAGE_LABELS) if wave.labels[0].startswith("logits") else CHANNELS
            inputs = CHANNELS if wave.labels[0].startswith("logits") else 9
            parts = step.fields["part_count"]
            assert wave.weight_bytes == 4 * outputs * (inputs + 1) + 4 * (parts + 1)
    assert {wave.kernel.rpartition("+")[2] for wave in waves} == {"stream", "dense"}


def test_sums(artifact: Artifact) -> None:
    report = examine(artifact, rounds=2)
    assert {one.kernel for one in report.kernels} == {wave.kernel for wave in report.waves}
    for total in (*report.kernels, report.total):
        waves = [wave for wave in report.waves if total.kernel in ("total", wave.kernel)]
        estimated = [wave for wave in waves if wave.predicted_seconds is not None]
        predicted = sum(wave.predicted_seconds or 0.0 for wave in estimated)
        assert (total.waves, total.macs) == (len(waves), sum(wave.macs for wave in waves))
        assert total.weight_bytes == sum(wave.weight_bytes for wave in waves)
        assert total.measured_seconds == pytest.approx(sum(wave.measured_seconds for wave in waves))
        if estimated:
            measured = sum(wave.measured_seconds for wave in estimated)
            assert total.predicted_seconds == pytest.approx(predicted)
            assert total.predicted_share == pytest.approx(predicted / measured)
        else:
            assert (total.predicted_seconds, total.predicted_share) == (None, None)
    assert report.weight_bytes == report.total.weight_bytes


def test_the_table_says_what_the_report_holds(artifact: Artifact) -> None:
    report = examine(artifact, rounds=1)
    lines = render(report)
    waves, totals = _rows(lines, "layer"), _rows(lines, "waves")
    for row, wave in zip(waves, report.waves, strict=True):
        assert row[0] == wave.kernel
        assert row[-len(COLUMNS) :] == _cells(wave)
        assert ("x 3 heads" in " ".join(row)) == (len(wave.labels) == 3)
    for row, total in zip(totals, (*report.kernels, report.total), strict=True):
        assert row[:2] == [total.kernel, str(total.waves)]
        assert row[2 : 2 + len(COLUMNS)] == _cells(total)
        share = "-" if total.predicted_share is None else f"{total.predicted_share:.0%}"
        assert row[-2:] == [f"{total.measured_seconds / report.total.measured_seconds:.1%}", share]
    assert max(map(len, lines)) <= 160


def _cells(row: Wave | Total) -> list[str]:
    predicted = "-" if row.predicted_seconds is None else f"{1e6 * row.predicted_seconds:,.1f}"
    work = (f"{row.macs / 1e6:,.3f}", f"{row.macs / row.measured_seconds / 1e9:,.1f}") if row.macs else ("-", "-")
    weights = f"{row.weight_bytes / 1024:,.1f}" if row.weight_bytes else "-"
    return [work[0], weights, predicted, f"{1e6 * row.measured_seconds:,.1f}", work[1]]


def test_long_names_lose_their_beginning(image_artifact: Artifact) -> None:
    report = examine(image_artifact, heads=1, rounds=1)
    label = f"/{'encoder/' * 20}Conv_output_0: 8->8 3x3 on 1x144"
    wave = Wave("stream", (label, label), (), 1, 1, None, 1e-6)
    line = render(replace(report, waves=(wave,)))[7]
    layer = line.removeprefix("stream").strip().partition("  ")[0]
    assert len(layer) == LAYER_WIDTH
    assert layer.startswith("...")
    assert layer.endswith("encoder/Conv: 8->8 3x3 on 1x144 x 2 heads")


def test_printed(image_artifact: Artifact, capsys: pytest.CaptureFixture[str]) -> None:
    inspect(str(image_artifact.folder), plan=True, heads=2, cores=1)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"tiny-image version 1, sha256 {image_artifact.sha256}"
    assert lines[1].startswith("engine    native, fp32, generated for ")
    assert lines[1].endswith(", 1 core")
    assert lines[2].startswith("plan      one row, 2 heads: ")
    assert any(f"{CHANNELS}->{CHANNELS} 3x3 on 1x{SIDE**2}, density 0.250" in line for line in lines)


def test_json_is_the_data_of_the_table(text_artifact: Artifact, capsys: pytest.CaptureFixture[str]) -> None:
    inspect(str(text_artifact.folder), plan=True, cores=1, json=True)
    document = json.loads(capsys.readouterr().out)
    report = PlanReport(
        **{
            **document,
            "waves": tuple(
                Wave(**{**wave, "labels": tuple(wave["labels"]), "gathers": tuple(wave["gathers"])})
                for wave in document["waves"]
            ),
            "kernels": tuple(Total(**total) for total in document["kernels"]),
            "total": Total(**document["total"]),
        }
    )
    lines = render(report)
    assert lines[2].startswith(f"plan      one row of {LENGTHS[-1]} tokens, 3 heads: ")
    plan = _plan(text_artifact, 3, 1)
    assert [wave["macs"] for wave in document["waves"]] == [sum(step.macs for step in wave) for wave in plan.waves]
    assert len(_rows(lines, "layer")) == len(plan.waves)


@pytest.mark.parametrize("heads", [0, 4])
def test_so_many_heads_are_refused(image_artifact: Artifact, heads: int) -> None:
    with pytest.raises(EngineError, match=f"has 1 to 3 heads to plan, not {heads}"):
        examine(image_artifact, heads=heads)


def test_no_cores_or_rounds_are_refused(image_artifact: Artifact) -> None:
    with pytest.raises(EngineError, match="at least 1, not 0"):
        examine(image_artifact, cores=0)
    with pytest.raises(EngineError, match="rounds must be at least 1, not 0"):
        examine(image_artifact, rounds=0)


def test_options_of_the_plan_need_it(image_artifact: Artifact) -> None:
    with pytest.raises(EngineError, match="add --plan"):
        inspect(str(image_artifact.folder), heads=1)
    with pytest.raises(EngineError, match="add --plan"):
        inspect(str(image_artifact.folder), cores=1)


def test_without_llvmlite_the_plan_says_what_to_install_and_the_rest_works(image_artifact: Artifact) -> None:
    script = (
        "import sys; sys.modules['llvmlite'] = None\n"
        "from neurotrails import main\n"
        f"folder = {str(image_artifact.folder)!r}\n"
        "print(main(['inspect', folder]), main(['inspect', folder, '--plan']))"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "0 1"
    assert "needs llvmlite: pip install" in done.stderr
