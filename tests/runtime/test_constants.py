import contextlib
import fcntl
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.artifact import Artifact
from runtime.engines import load_engine
from runtime.engines.base import EngineOptions
from runtime.engines.constants import LEAST_BYTES, SharedConstants, constants_in_use, sharing
from runtime.verify import read_reference


@pytest.fixture
def file() -> Iterator[int]:
    descriptor = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    yield descriptor
    os.close(descriptor)


def test_others_find_by_content_what_the_first_has_written(file: int) -> None:
    generator = np.random.default_rng(0)
    one: NDArray[Any] = generator.standard_normal((40, 50)).astype(np.float32)
    other: NDArray[Any] = generator.integers(0, 9, 3000).astype(np.uint16)[::2]
    small = np.arange(LEAST_BYTES - 1, dtype=np.uint8)
    first = SharedConstants(file, None)
    placed = first.place([one, other, one.copy(), small])
    assert placed[3] is small
    assert placed[0].ctypes.data == placed[2].ctypes.data, "the same bytes lie there once"
    assert len(first.index) == 2
    # The first one maps it read-only, too: else the file could not be sealed.
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE)
    new = generator.standard_normal((40, 50)).astype(np.float32)
    second = SharedConstants(file, first.index)
    found = second.place([other, new, one])
    assert found[1] is new
    for array, expected in zip([*placed, found[0], found[2]], [one, other, one, small, other, one], strict=True):
        assert (array.shape, array.dtype) == (expected.shape, expected.dtype)
        np.testing.assert_array_equal(array, expected)
    for array in (placed[0], found[0]):
        assert array.ctypes.data % 64 == 0
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


def test_without_constants_nothing_changes(file: int) -> None:
    array = np.zeros(LEAST_BYTES)
    assert SharedConstants(file, {}).place([array])[0] is array
    assert SharedConstants(file, None).place([]) == []


def test_sharing_lasts_as_long_as_its_block(file: int) -> None:
    assert constants_in_use() is None
    shared = SharedConstants(file, None)
    with contextlib.suppress(KeyError), sharing(shared):
        assert constants_in_use() is shared
        raise KeyError
    assert constants_in_use() is None


def test_native_engines_compute_the_same_with_shared_constants(artifact: Artifact, file: int) -> None:
    options = EngineOptions(cores=2)
    inputs, _ = read_reference(artifact)
    engines = [load_engine(artifact, "native", options)]
    index = None
    for _ in range(2):
        shared = SharedConstants(file, index)
        with sharing(shared):
            engines.append(load_engine(artifact, "native", options))
        assert index in (None, shared.index), "the second engine has the same constants"
        index = shared.index
    assert index
    alone, *others = [[logits.tobytes() for logits in engine.logits(inputs, 3)] for engine in engines]
    assert others == [alone, alone]
    for engine in engines:
        engine.close()
