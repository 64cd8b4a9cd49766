"""The queue that a searcher's calls go through."""

from __future__ import annotations

import os
import sys
import threading
import time

import pytest

from autotune.thinking import Thinking

HERE = tuple(os.sched_getaffinity(0))
somewhere = pytest.mark.parametrize("cores", [(), HERE[:1]], ids=["at once", "in a thread"])


@somewhere
def test_everything_is_done_once_and_in_order(cores: tuple[int, ...]) -> None:
    done: list[int] = []
    with Thinking(cores) as thinking:
        for number in range(20):
            thinking.do(done.append, number)
        assert thinking.get(lambda: list(done)) == list(range(20))
        thinking.do(done.append, 20)
    assert done == list(range(21))


@somewhere
def test_what_is_raised_is_heard_of_and_only_once(cores: tuple[int, ...]) -> None:
    done: list[str] = []
    with pytest.raises(ZeroDivisionError), Thinking(cores) as thinking:
        thinking.do(lambda: 1 // 0)
        thinking.get(done.append, "after")
    with pytest.raises(ZeroDivisionError), Thinking(cores) as thinking:
        thinking.get(lambda: 1 // 0)
    # Another reason to end is not hidden by it.
    with pytest.raises(KeyboardInterrupt), Thinking(cores[:1]) as thinking:
        if cores:
            thinking.do(lambda: 1 // 0)
        raise KeyboardInterrupt


def test_leaving_waits_and_leaves_no_thread_and_the_interpreter_as_it_was() -> None:
    before = sys.getswitchinterval()
    done: list[bool] = []
    with pytest.raises(KeyboardInterrupt), Thinking(HERE[:1]) as thinking:
        assert sys.getswitchinterval() < before
        thinking.do(time.sleep, 0.1)
        thinking.do(done.append, True)
        raise KeyboardInterrupt
    assert done == [True]
    assert sys.getswitchinterval() == before
    assert not [t for t in threading.enumerate() if t.name.startswith("thinking")]


def test_it_thinks_on_the_cores_that_it_is_given_and_moves_nobody_else() -> None:
    with Thinking(HERE[-1:]) as thinking:
        assert thinking.get(os.sched_getaffinity, 0) == {HERE[-1]}
        assert tuple(os.sched_getaffinity(0)) == HERE
