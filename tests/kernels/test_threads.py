import threading

import pytest
import torch

from loid_infer.kernels.threads import Workers, workers


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_results_are_in_the_order_of_the_jobs(three_threads):
    with workers() as threads:
        for by in (Workers(), threads):
            assert by.map(lambda job: 2 * job, range(7)) == [0, 2, 4, 6, 8, 10, 12]
            assert list(by.ahead(lambda job: 2 * job, range(7))) == [0, 2, 4, 6, 8, 10, 12]
            assert by.map(str, []) == [] and list(by.ahead(str, [])) == []


def test_jobs_run_at_once(three_threads):
    barrier = threading.Barrier(3, timeout=20)
    with workers() as threads:
        threads.map(lambda _: barrier.wait(), range(3))  # ends only if all three are there


def test_a_job_is_begun_while_the_one_before_is_used(three_threads):
    begun = [threading.Event() for _ in range(3)]
    with workers() as threads:
        for job in threads.ahead(lambda job: begun[job].set() or job, range(3)):
            assert all(event.wait(20) for event in begun[: job + 2])
            assert not any(event.is_set() for event in begun[job + 2 :])


def test_each_operation_has_one_thread_inside_and_as_many_as_before_afterwards(three_threads):
    with pytest.raises(RuntimeError, match="mine"), workers() as threads:
        assert threads.map(lambda _: torch.get_num_threads(), range(3)) == [1, 1, 1]
        raise RuntimeError("mine")
    assert torch.get_num_threads() == 3


def test_an_error_of_a_job_is_raised(three_threads):
    with workers() as threads, pytest.raises(ZeroDivisionError):
        threads.map(lambda job: 1 / job, [1, 0])
    with workers() as threads, pytest.raises(ZeroDivisionError):
        list(threads.ahead(lambda job: 1 / job, [1, 0, 1]))
