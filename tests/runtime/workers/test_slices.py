import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import EngineError
from runtime.workers.slices import Slice, allowed_cpus, slices


@given(st.sets(st.integers(0, 200), min_size=1, max_size=40), st.data())
def test_everything_is_divided_evenly_and_once(cpus: set[int], data: st.DataObject) -> None:
    cores = data.draw(st.integers(1, len(cpus)))
    workers = data.draw(st.integers(1, cores))
    found = slices(cores, workers, sorted(cpus))
    assert [cpu for part in found for cpu in part.cpus] == sorted(cpus)
    assert sum(part.cores for part in found) == cores
    assert all(1 <= part.cores <= len(part.cpus) for part in found)
    for shares in ([part.cores for part in found], [len(part.cpus) for part in found]):
        assert max(shares) - min(shares) <= 1
        assert shares == sorted(shares, reverse=True)


def test_under_a_quota_workers_are_not_crowded_on_the_first_cpus() -> None:
    assert slices(2, 2, range(8)) == [Slice((0, 1, 2, 3), 1), Slice((4, 5, 6, 7), 1)]


@pytest.mark.parametrize(("cores", "cpus"), [(2, 4), (4, 2)])
def test_more_workers_than_cores_are_refused(cores: int, cpus: int) -> None:
    with pytest.raises(EngineError, match=rf"3 workers need as many cores, but the engine has {cores} .* {cpus} CPU"):
        slices(cores, 3, range(cpus))
    with pytest.raises(EngineError, match="at least 1 worker, not 0"):
        slices(cores, 0, range(cpus))


def test_this_process_has_cpus() -> None:
    assert allowed_cpus()
