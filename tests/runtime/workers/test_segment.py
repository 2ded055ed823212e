import os
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from runtime.workers.segment import Segment

TENSORS = st.dictionaries(
    st.text(max_size=3),
    arrays.arrays(
        st.sampled_from([np.float32, np.int64, np.uint8, np.bool_, np.float16]),
        arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9),
    ),
    max_size=4,
)


@pytest.fixture(scope="module")
def ends() -> Iterator[tuple[Segment, Segment]]:
    """A segment as the two processes have it open."""
    ours = Segment.create()
    theirs = Segment(os.dup(ours.descriptor))
    yield ours, theirs
    ours.close()
    theirs.close()


@given(tensors=TENSORS)
@settings(max_examples=50)
def test_what_is_written_is_read(ends: tuple[Segment, Segment], tensors: dict[str, np.ndarray]) -> None:  # type: ignore[type-arg]
    ours, theirs = ends
    found = theirs.read(ours.write(tensors))
    assert list(found) == list(tensors)
    for name, tensor in tensors.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert found[name].tobytes() == tensor.tobytes()


def test_it_grows_and_old_views_stay_readable(ends: tuple[Segment, Segment]) -> None:
    ours, theirs = ends
    small = theirs.read(ours.write({"x": np.arange(10)}))["x"]
    large = np.arange(3 * 2**20, dtype=np.float32)
    found = theirs.read(ours.write({"first": large[:1], "strided": large[::-3], "last": large}))
    np.testing.assert_array_equal(found["strided"], large[::-3])
    np.testing.assert_array_equal(found["last"], large)
    assert small.shape == (10,)
    assert theirs.holds(found["last"][5:7])
    assert not theirs.holds(large)


def test_nobody_can_cut_it_off_under_a_reader(ends: tuple[Segment, Segment]) -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(ends[0].descriptor, 0)
