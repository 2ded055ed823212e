"""The grid of the study: what it holds and in which order it is run."""

from collections import Counter

import pytest

from accuracy_grid import BLOCKS, BLOCKS_IN_HEAD, DATA, HEADS, SEEDS, Data, Entry, GridError, Variant, grid, sweeps
from environment import REPOSITORY
from training.config import load_config
from training.methods import topology
from training.models.build import build_network

ALL = grid()


def test_names_are_unique_and_so_are_settings() -> None:
    assert len({entry.name for entry in ALL}) == len(ALL)
    assert len({(entry.data, *entry.overrides) for entry in ALL}) == len(ALL)


def test_stage_one_compares_the_four_methods_with_three_seeds_on_both_data_sets() -> None:
    labels = Counter(entry.label for entry in grid(stages=(1,)))
    variants = ("dense", "full_ensemble", "treenet", "neurotrails-density0.2", "neurotrails-density0.1")
    assert labels == {f"{name}/{variant}": 3 for name in DATA for variant in variants}


def test_stage_two_adds_what_begins_dense_the_full_rate_of_sgd_and_the_other_sparse_ensembles() -> None:
    labels = {name: {entry.label.split("/")[1] for entry in grid(stages=(2,), data=(name,))} for name in DATA}
    others = {"static_sparse-density0.2", "dst_ensemble-density0.2", "edst_ensemble-density0.2"}
    assert labels["newsgroups"] == {"neurotrails-density0.2-fromdense", *others}
    full_rates = {
        f"{start}-fullrate" for start in ("treenet", *(f"neurotrails-density0.2{d}" for d in ("", "-fromdense")))
    }
    assert labels["fashion-mnist"] == labels["newsgroups"] | full_rates


def test_the_full_rate_is_that_of_the_recipe_times_the_heads() -> None:
    full = [entry for entry in ALL if entry.variant.full_rate]
    assert full
    for entry in full:
        recipe = load_config(REPOSITORY / "recipes" / f"study-{entry.data}.yaml", ())
        changed = load_config(REPOSITORY / "recipes" / f"study-{entry.data}.yaml", entry.overrides)
        assert changed.optimizer.kind == "sgd"
        assert changed.optimizer.lr == pytest.approx(recipe.optimizer.lr * HEADS)


@pytest.mark.parametrize("data", DATA)
def test_sweeps_reach_from_a_shared_network_to_separate_ones(data: Data) -> None:
    blocks = {v.blocks_in_head for v in sweeps(data) if (v.density, v.heads, v.embeddings) == (0.2, HEADS, False)}
    assert {BLOCKS_IN_HEAD[data] if index is None else index for index in blocks} == {*range(BLOCKS[data] + 1)}


def test_overrides_are_what_makes_a_variant() -> None:
    overrides = {entry.label: entry.overrides for entry in grid(data=("newsgroups",), seeds=(2,))}
    assert overrides["newsgroups/dense"] == ("seed=2", "method=dense")
    assert overrides["newsgroups/treenet"] == ("seed=2", "method=treenet", "ensemble.heads=3")
    sparse = ("seed=2", "method=neurotrails", "sparsity.density=0.2", "ensemble.heads=3")
    assert overrides["newsgroups/neurotrails-density0.2"] == sparse
    assert overrides["newsgroups/neurotrails-density0.2-blocks0"] == (*sparse, "ensemble.blocks_in_head=0")
    assert overrides["newsgroups/neurotrails-density0.2-embeddings"] == (*sparse, "sparsity.embeddings=true")
    falling = ("sparsity.initial_density=1", "sparsity.decay_until=0.5")
    assert overrides["newsgroups/neurotrails-density0.2-fromdense"] == (*sparse, *falling)
    assert "newsgroups/neurotrails-density0.2-heads5" in overrides


@pytest.mark.parametrize("entry", grid(seeds=(1,)), ids=lambda entry: entry.name)
def test_every_entry_is_a_valid_configuration(entry: Entry) -> None:
    config = load_config(REPOSITORY / "recipes" / f"study-{entry.data}.yaml", entry.overrides)
    heads = topology(config).heads
    assert (config.method, config.seed, heads) == (entry.variant.method, 1, entry.variant.heads)


def test_every_prefix_is_balanced_over_seeds_within_a_stage() -> None:
    keys = [(entry.stage, SEEDS.index(entry.seed)) for entry in ALL]
    assert keys == sorted(keys)
    for stage in (1, 2, 3):
        of_seed = [[e.label for e in ALL if (e.stage, e.seed) == (stage, seed)] for seed in SEEDS]
        assert of_seed[0] == of_seed[1] == of_seed[2]


def test_a_choice_keeps_order_and_stage_of_what_it_leaves() -> None:
    chosen = grid(stages=(3,), data=("newsgroups",), seeds=(2,))
    expected = tuple(e for e in ALL if (e.stage, e.data, e.seed) == (3, "newsgroups", 2))
    assert chosen == expected
    assert {entry.variant for entry in grid(stages=(1,), methods=("dense",))} == {Variant(method="dense", heads=1)}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"stages": (1, 4)}, "--stages 4 is not in the grid; choose from 1, 2, 3"),
        ({"data": ("mnist",)}, "--data mnist is not in the grid"),
        ({"methods": ("dropout",)}, "--methods dropout is not in the grid"),
        ({"seeds": (-1,)}, "--seeds must be numbers from 0 up, not -1"),
    ],
)
def test_what_the_grid_does_not_hold_is_named(arguments: dict[str, tuple[str, ...]], said: str) -> None:
    with pytest.raises(GridError, match=said):
        grid(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("data", DATA)
def test_the_grid_knows_the_networks_of_the_recipes(data: Data) -> None:
    config = load_config(REPOSITORY / "recipes" / f"study-{data}.yaml")
    assert (config.ensemble.heads, config.ensemble.blocks_in_head) == (HEADS, BLOCKS_IN_HEAD[data])
    everything = config.ensemble.model_copy(update={"heads": 1, "blocks_in_head": BLOCKS[data]})
    assert build_network(config.network, everything, classes=2, channels=1, seed=0).trunk is None
