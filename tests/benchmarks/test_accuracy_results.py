"""Result files and what is said about them together, against a few obvious lines."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from accuracy_measure import quality_of_logits
from accuracy_plots import SMOKE, accuracy_over_non_zeros, write_plots
from accuracy_results import ResultError, pack_rows, read_result, read_results, write_result
from accuracy_summary import aims, blocks_sweep, chosen_blocks, difference, groups_of, part_of
from accuracy_tables import NOTHING, readme, study
from tests.benchmarks.study_results import a_study, entry_of, quality, result


def test_a_result_is_read_back_as_it_was(tmp_path: Path) -> None:
    made = a_study()
    for each in made:
        write_result(tmp_path / f"{each.entry.name}.json", each)
    assert list(read_results(tmp_path)) == made
    assert read_result(tmp_path / "nothing.json") is None


def test_a_damaged_result_is_named(tmp_path: Path) -> None:
    (tmp_path / "fashion-mnist").mkdir()
    (tmp_path / "fashion-mnist" / "dense-seed1.json").write_text("{}")
    with pytest.raises(ResultError, match=r"dense-seed1\.json is not a result"):
        read_results(tmp_path)


def test_smoke_results_never_mix_with_genuine_ones(tmp_path: Path) -> None:
    for seed, smoke in ((1, False), (2, True)):
        made = result(entry_of("newsgroups/dense", seed), 10, smoke=smoke)
        write_result(tmp_path / f"{made.entry.name}.json", made)
    with pytest.raises(ResultError, match="smoke runs among genuine ones"):
        read_results(tmp_path)


def test_rows_are_packed_without_loss() -> None:
    right = np.random.default_rng(0).random(20) < 0.5
    assert (quality("test", 3).model_copy(update={"right": pack_rows(right)}).right_rows() == right).all()


def test_what_a_vote_is_worth() -> None:
    generator = np.random.default_rng(0)
    logits = generator.standard_normal((3, 50, 4)).astype(np.float32)
    targets = generator.integers(0, 4, 50)
    found = quality_of_logits(logits, targets, part="report", temperature=1.7)
    heads = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    voted = heads.mean(axis=0) ** (1 / 1.7)
    voted /= voted.sum(axis=-1, keepdims=True)
    right = voted.argmax(axis=-1) == targets
    assert (found.right_rows() == right).all()
    assert found.accuracy == right.mean()
    assert found.nll == pytest.approx(-np.log(voted[np.arange(50), targets]).mean(), rel=1e-5)
    assert found.uncalibrated_nll == pytest.approx(-np.log(heads.mean(axis=0)[np.arange(50), targets]).mean(), rel=1e-5)
    pairs = [(0, 1), (0, 2), (1, 2)]
    tops = logits.argmax(axis=-1)
    assert found.disagreement == pytest.approx(np.mean([(tops[p] != tops[q]).mean() for p, q in pairs]))
    assert found.head_accuracy == tuple((top == targets).mean() for top in tops)


def test_figures_over_seeds() -> None:
    group = groups_of(a_study(), "fashion-mnist")["dense"]
    spread = group.quality("test", lambda q: q.accuracy)
    assert spread is not None
    assert spread.values == (0.7, 0.7, 0.75)
    assert spread.mean == pytest.approx((0.7 + 0.7 + 0.75) / 3)
    assert spread.deviation == pytest.approx(np.std([0.7, 0.7, 0.75], ddof=1))
    assert group.quality("test", lambda q: q.disagreement) is None


def test_differences_are_paired_by_seed() -> None:
    groups = groups_of(a_study(), "fashion-mnist")
    missing_a_seed = groups["dense"].__class__(groups["dense"].results[1:])
    found = difference(groups["neurotrails-density0.2"], missing_a_seed, "test")
    assert found is not None
    assert found.by_seed.values == pytest.approx((0.1, 0.1))
    assert found.low <= 0.1 <= found.high
    # 2 of 20 rows differ: a resample holds a binomial number of them
    draws = np.random.default_rng(1).binomial(20, 0.1, 100_000) / 20
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(draws, (0.025, 0.975))), abs=0.051)
    same = difference(groups["dense"], groups["dense"], "report")
    assert same is not None
    assert (same.low, same.high) == (0, 0)


def test_without_a_common_seed_nothing_is_compared() -> None:
    groups = groups_of(a_study(), "fashion-mnist")
    first = groups["dense"].__class__(groups["dense"].results[:1])
    last = groups["treenet"].__class__(groups["treenet"].results[2:])
    assert difference(first, last, "test") is None


def test_aims_are_reached_or_missed() -> None:
    decided = aims(groups_of(a_study(), "fashion-mnist"), "test")
    assert [aim.reached for aim in decided] == [True, True, True, False]
    assert "510 of 3,000, 17.0 %" in decided[1].figures
    assert aims({}, "test") == ()


def test_the_test_part_is_shown_only_when_all_runs_have_it() -> None:
    made = a_study()
    assert part_of(made) == "test"
    assert part_of([*made, result(entry_of("fashion-mnist/dense", 4), 3, tested=False)]) == "report"


def test_blocks_are_chosen_on_the_report_part() -> None:
    made = [
        result(entry_of("fashion-mnist/neurotrails-density0.2-blocks0", 1), 19, on_report=3),
        result(entry_of("fashion-mnist/neurotrails-density0.2-blocks3", 1), 4, on_report=5),
        result(entry_of("fashion-mnist/neurotrails-density0.2", 1), 18, on_report=4),
        result(entry_of("fashion-mnist/neurotrails-density0.05", 1), 18, on_report=9),
    ]
    groups = groups_of(made, "fashion-mnist")
    assert [group.blocks_in_head for group in blocks_sweep(groups)] == [0, 2, 3]
    chosen = chosen_blocks(groups)
    assert chosen is not None
    assert chosen.blocks_in_head == 3


def test_tables_show_every_seed_and_say_what_was_missed() -> None:
    text = study(a_study())
    assert "| NeuroTrails, density 0.2 | **81.67** (80.00, 80.00, 85.00) |" in text
    assert "| disagreement between TreeNet's and the ensemble's | **missed** | 10.00 %, 25.00 %, 20.00 % |" in text
    assert "stage 1: 15 of 30 runs" in text
    assert "The budget is small" in text
    short = readme(a_study())
    assert "Aims of NeuroTrails at density 0.2 on fashion-mnist, 3 of 4 reached:" in short
    assert "81.67 % (80.00 to 85.00)" in short
    assert readme([]) == study([]) == NOTHING


def test_smoke_is_told_in_tables() -> None:
    made = [result(entry_of("newsgroups/dense", 1), 10, smoke=True)]
    assert SMOKE in study(made)
    assert SMOKE in readme(made)


def reddish(png: bytes) -> int:
    """Pixels that are clearly red."""
    with Image.open(io.BytesIO(png)) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    return int((pixels[..., 0] > pixels[..., 1:].max(axis=-1) + 60).sum())


def test_plots_are_pictures_and_smoke_changes_them(tmp_path: Path) -> None:
    made = a_study()
    paths = write_plots(tmp_path, made)
    assert len(paths) == 3
    for path in paths:
        with Image.open(path) as image:
            assert len(image.convert("RGB").getcolors(maxcolors=1 << 20) or []) > 20
    smoke = accuracy_over_non_zeros([each.model_copy(update={"smoke": True}) for each in made])
    assert reddish(smoke) > reddish(paths[0].read_bytes()) + 100
    assert write_plots(tmp_path / "none", []) == ()
