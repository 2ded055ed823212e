"""The hot kernels against their plain-C twins: the same numbers from the same arrays, by the instructions we mean."""

import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from live_networks import LiveRecipe
from runtime.artifact import Artifact
from runtime.engines.base import EngineOptions
from runtime.engines.native.compile import DIGEST_BYTES, instruction_sets, load_library
from runtime.engines.native.engine import NativeEngine
from runtime.engines.native.plan import Plan
from training.config import EnsembleConfig, TextEncoderConfig, WideResNetConfig
from twins import (
    INSTRUCTION_SET,
    TWINNED,
    BoundStep,
    NoTwins,
    Twins,
    compile_twins,
    twinned_steps,
    widest_tile,
    with_tiles,
)

RECIPES = {
    "image": LiveRecipe(
        WideResNetConfig(kind="wide_resnet", depth=10, width=2), EnsembleConfig(heads=1, blocks_in_head=2),
        density=0.3, classes=10, side=24,
    ),
    "text": LiveRecipe(
        TextEncoderConfig(kind="text_encoder", vocabulary=90, width=64, blocks=1, attention_heads=2, lengths=(72,)),
        EnsembleConfig(heads=1, blocks_in_head=1), density=0.3, classes=10,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Twins:
    try:
        return compile_twins(tmp_path_factory.mktemp("twins"))
    except NoTwins as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def plans(twins: Twins, tmp_path_factory: pytest.TempPathFactory) -> list[Plan]:
    del twins  # without them there is nothing to plan for
    chosen = type("Chosen", (NativeEngine,), {"instruction_set": INSTRUCTION_SET})
    plans: list[Plan] = []
    for name, recipe in RECIPES.items():
        folder = tmp_path_factory.mktemp("live") / name
        recipe.write(folder)
        engine = chosen(Artifact.open(folder), EngineOptions(cores=2, batch_sizes=(2,)))
        plans.append(engine.plan(len(engine.artifact.manifest.heads)))
        engine.close()
    return plans


def test_results_are_those_of_the_twin_bit_by_bit_at_every_width(twins: Twins, plans: list[Plan]) -> None:
    seen: set[tuple[str, int]] = set()
    for plan in plans:
        for step in twinned_steps(plan):
            for width in range(1, widest_tile(step) + 1):
                bound = BoundStep(plan, with_tiles(step, width), seed=0)
                twins.run(bound, "generated")
                generated = bound.memory.copy()
                bound.reset()
                assert not np.array_equal(generated, bound.memory), step.label
                twins.run(bound, "twin")
                np.testing.assert_array_equal(
                    bound.memory.view(np.int32), generated.view(np.int32), err_msg=f"{step.label}, {width} vectors"
                )
                seen.add((step.kernel, width))
    assert {kernel for kernel, _ in seen} == set(TWINNED)
    assert len({width for kernel, width in seen if kernel == "stream"}) >= 4
    assert len({width for kernel, width in seen if kernel == "attention"}) >= 2


@pytest.fixture(scope="module")
def hot_loops(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[list[str]]]:
    """Instructions of the innermost loops that multiply and add, by kernel."""
    objdump = shutil.which("objdump")
    if objdump is None:
        pytest.skip("There is no disassembler (objdump) here.")
    if INSTRUCTION_SET not in instruction_sets():
        pytest.skip("This machine has no AVX-512.")
    folder = tmp_path_factory.mktemp("code")
    load_library(INSTRUCTION_SET, folder / "cache")
    [stored] = (folder / "cache").iterdir()
    code = folder / "kernels.o"
    code.write_bytes(stored.read_bytes()[DIGEST_BYTES:])
    return {kernel: inner_loops(objdump, code, kernel) for kernel in TWINNED}


def test_a_kept_weight_costs_one_broadcast_and_a_multiply_add_from_memory_for_each_vector(
    hot_loops: dict[str, list[list[str]]],
) -> None:
    found = {}
    for loop in hot_loops["stream"]:
        vectors = [text for text in loop if text.startswith("v")]
        assert all("(" in text for text in vectors), loop  # every vector instruction reads memory
        assert len(loop) <= len(vectors) + 8, loop
        names = Counter(text.split()[0] for text in vectors)
        found[names["vfmadd231ps"] + names["vfmadd213ps"] + names["vfmadd132ps"]] = len(vectors)
    # With a single vector the multiply-add broadcasts the weight itself, and the lanes are loaded before.
    widths = range(1, instruction_sets()[INSTRUCTION_SET].max_vectors + 1)
    assert found == {width: width + 1 for width in widths}


def test_sums_of_dense_panels_stay_in_registers(hot_loops: dict[str, list[list[str]]]) -> None:
    machine = instruction_sets()[INSTRUCTION_SET]
    multiply_adds = {sum(text.startswith("vfmadd") for text in loop) for loop in hot_loops["dense"]}
    widths = range(1, machine.max_vectors + 1)
    assert {width * machine.panel_rows(width) for width in widths} <= multiply_adds
    for loop in (*hot_loops["dense"], *hot_loops["attention"]):
        assert not [text for text in loop if text.startswith("v") and "rsp" in text], loop


def inner_loops(objdump: str, code: Path, function: str) -> list[list[str]]:
    """Instructions of the innermost loops of a function that multiply and add."""
    listing = subprocess.run(
        [objdump, "-d", "--no-show-raw-insn", f"--disassemble={function}", code], check=True, capture_output=True,
        text=True,
    ).stdout  # fmt: skip
    lines = [
        (int(address, 16), " ".join(text.split()))
        for address, text in re.findall(r"^ *([0-9a-f]+):\t(.*)$", listing, re.MULTILINE)
    ]
    loops = []
    begin = 0
    for place, (address, text) in enumerate(lines):
        jump = re.match(r"j\w+ +([0-9a-f]+)", text)
        if jump is None:
            continue
        target = int(jump[1], 16)
        body = [text for at, text in lines[begin : place + 1] if at >= target]
        if target <= address and lines[begin][0] <= target and any(text.startswith("vfmadd") for text in body):
            loops.append(body)
        begin = place + 1
    return loops
