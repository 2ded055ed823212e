"""The three held-out parts: disjoint, exact, stratified, without leaks, and the same for the same seed."""

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.data import DataError, Dataset, Examples, Split, split


def texts_dataset(texts: list[str], targets: list[int], test: Examples | None = None) -> Dataset:
    labels = tuple(f"class {index}" for index in range(max(targets) + 1))
    train = Examples(tuple(texts), np.array(targets, dtype=np.int64))
    return Dataset("d", "text", labels, train, test, "made for a test", "0" * 64)


def parts_of(parts: Split) -> tuple[Examples, ...]:
    return (parts.fit, parts.select, parts.calibrate, parts.report)


@st.composite
def datasets_with_duplicates(draw: st.DrawFn) -> Dataset:
    rows = []
    for target in range(draw(st.integers(2, 5))):
        unique = draw(st.integers(20, 60))
        repeats = draw(st.lists(st.integers(0, 2), max_size=5))
        rows += [(f"text {target} {index}", target) for index in range(unique)]
        rows += [(f"again {repeat}", target) for repeat in repeats]  # also across classes
    order = draw(st.permutations(rows))
    tested = draw(st.lists(st.sampled_from(rows), max_size=2))
    test = Examples(tuple(text for text, _ in tested), np.array([target for _, target in tested], dtype=np.int64))
    return texts_dataset([text for text, _ in order], [target for _, target in order], test)


@settings(max_examples=60, deadline=None)
@given(datasets_with_duplicates(), st.sampled_from([0.05, 0.1, 0.15]), st.integers(0, 2**32))
def test_parts_are_exact_stratified_and_disjoint(dataset: Dataset, held_out: float, seed: int) -> None:
    assert dataset.test is not None
    parts = split(dataset, held_out=held_out, seed=seed)
    kept = [
        (text, int(target))
        for text, target in zip(dataset.train.inputs, dataset.train.targets, strict=True)
        if text not in dataset.test.inputs
    ]
    found = [
        (text, int(target)) for part in parts_of(parts) for text, target in zip(part.inputs, part.targets, strict=True)
    ]
    assert Counter(found) == Counter(kept)  # every row exactly once, no row that is tested
    for index, part in enumerate(parts_of(parts)):
        for other in parts_of(parts)[index + 1 :]:
            assert not set(part.inputs) & set(other.inputs)
    shares = held_out * np.bincount([target for _, target in kept], minlength=len(dataset.labels))
    counts = [np.bincount(part.targets, minlength=len(dataset.labels)) for part in parts_of(parts)[1:]]
    for count in counts:
        assert count.sum() == round(held_out * len(kept))
        assert np.array_equal(count, counts[0])
        assert np.all(np.abs(count - shares) < 1)


@settings(max_examples=30, deadline=None)
@given(datasets_with_duplicates(), st.integers(0, 1000))
def test_the_seed_alone_decides(dataset: Dataset, seed: int) -> None:
    first, second = split(dataset, held_out=0.1, seed=seed), split(dataset, held_out=0.1, seed=seed)
    assert [part.inputs for part in parts_of(first)] == [part.inputs for part in parts_of(second)]
    order = np.arange(len(dataset.train))[::-1]
    turned = Dataset("d", "text", dataset.labels, dataset.train.take(order), dataset.test, "", "")
    assert set(split(turned, held_out=0.1, seed=seed).select.inputs) == set(first.select.inputs)


def test_largest_remainders_get_the_extra_rows() -> None:
    counts = [33, 28, 39]  # shares of 3.3, 2.8 and 3.9 rows: 3 + 2 + 3 = 8, so the last two get one more
    targets = [target for target, count in enumerate(counts) for _ in range(count)]
    parts = split(texts_dataset([f"t{row}" for row in range(100)], targets), held_out=0.1, seed=3)
    assert np.bincount(parts.select.targets).tolist() == [3, 3, 4]
    assert parts.test is None


def test_other_seeds_hold_out_other_rows() -> None:
    dataset = texts_dataset([f"t{row}" for row in range(1000)], [row % 2 for row in range(1000)])
    chosen = [frozenset(split(dataset, held_out=0.1, seed=seed).select.inputs) for seed in range(20)]
    assert len(set(chosen)) == 20
    # Rows are drawn evenly: over 20 draws of 100 of 1000 rows, 878 +- 11 different ones are expected.
    assert 700 < len(frozenset().union(*chosen)) < 950


def test_rows_are_the_same_in_every_process() -> None:
    script = (
        "from tests.training.data.test_split import *;"
        "d = texts_dataset([f't{row}' for row in range(200)], [row % 2 for row in range(200)]);"
        "print(*split(d, held_out=0.05, seed=7).report.inputs)"
    )
    outputs = [
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout for _ in "ab"
    ]
    assert outputs[0] == outputs[1]
    assert len(outputs[0].split()) == 10


@pytest.mark.parametrize("held_out", [0, -0.1, 1 / 3, 0.5, float("nan")])
def test_an_impossible_fraction_is_refused(held_out: float) -> None:
    with pytest.raises(DataError, match="held_out is"):
        split(texts_dataset(["a", "b"], [0, 1]), held_out=held_out, seed=0)


@pytest.mark.parametrize(
    ("texts", "targets"),
    [
        (["a", "b", "c"], [0, 1, 1]),  # rounds to no row at all
        ([*"abcdefghijklmnopqrs", "t", "t", "t"] + ["u"] * 100, [0] * 22 + [1] * 100),  # one class is one text
    ],
)
def test_too_little_data_is_refused(texts: list[str], targets: list[int]) -> None:
    with pytest.raises(DataError, match="too few to hold out three parts"):
        split(texts_dataset(texts, targets), held_out=0.1, seed=0)


def test_the_genuine_newsgroups_do_not_leak(newsgroups: Dataset) -> None:
    parts = split(newsgroups, held_out=0.05, seed=0)
    assert parts.test is newsgroups.test
    assert parts.test is not None
    everything = [set(part.inputs) for part in (*parts_of(parts), parts.test)]
    assert sum(map(len, everything)) == len(set().union(*everything))
    leaked = sum(text in everything[4] for text in newsgroups.train.inputs)
    assert [len(part) for part in parts_of(parts)] == [11_293 - leaked - 3 * 564, 564, 564, 564]
    assert leaked == 7


def test_images_are_split_like_texts(fashion_mnist: Dataset) -> None:
    parts = split(fashion_mnist, held_out=0.05, seed=0)
    for part in parts_of(parts)[1:]:
        assert np.bincount(part.targets).tolist() == [300] * 10
    seen = [
        {image.tobytes() for image in part.inputs} for part in parts_of(parts) if isinstance(part.inputs, np.ndarray)
    ]
    assert len(set().union(*seen)) == sum(map(len, seen))


def test_inputs_and_targets_must_agree() -> None:
    with pytest.raises(DataError, match="2 inputs do not go with 1 targets"):
        Examples(("a", "b"), np.zeros(1, dtype=np.int64))
