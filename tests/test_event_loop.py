"""The loop of a run: what it changes of the process is as it was when all runs have ended."""

import gc
import threading

import pytest

import spri_dspy as spri
from spri_dspy.event_loop import run_to_end
from spri_dspy.tasks import make_example
from tests.factories import make_task


@pytest.fixture(autouse=True)
def thresholds():
    before = gc.get_threshold()
    gc.set_threshold(701, 11, 12)
    yield
    gc.set_threshold(*before)


@pytest.mark.parametrize("first_out", [0, 1])
def test_the_collectors_threshold_comes_back_when_runs_overlap_in_threads(first_out):
    inside, leave = [threading.Event() for _ in range(2)], [threading.Event() for _ in range(2)]

    async def work(number):
        inside[number].set()
        leave[number].wait(20)

    threads = [threading.Thread(target=lambda n=n: run_to_end(work(n))) for n in range(2)]
    for thread, event in zip(threads, inside, strict=True):
        thread.start()
        assert event.wait(20)
    assert gc.get_threshold()[0] > 10_000
    for number in (first_out, 1 - first_out):
        assert gc.get_threshold()[0] > 10_000, "the other one still runs"
        leave[number].set()
        threads[number].join(20)
    assert gc.get_threshold() == (701, 11, 12)


def test_the_collectors_threshold_comes_back_after_many_runs_in_threads_and_failures(tmp_path):
    def run(number):
        program = spri.SPRI(make_task()).set_lms(base="offline")
        spri.run_bulk(program, [make_example("a", {"question": "why?"})], tmp_path / str(number))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    async def fail():
        raise KeyError("x")

    with pytest.raises(KeyError):
        run_to_end(fail())
    assert gc.get_threshold() == (701, 11, 12)


def test_a_collector_that_is_off_stays_off():
    gc.set_threshold(0, 11, 12)

    async def look():
        return gc.get_threshold()

    assert run_to_end(look()) == (0, 11, 12) == gc.get_threshold()
