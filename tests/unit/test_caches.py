"""The two caches: what they keep, what they drop, and who reads again."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.caches import Fresh, Lru
from support.hand_clock import HandClock

if TYPE_CHECKING:
    from collections.abc import Iterator

KEYS = st.integers(0, 6)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), KEYS, st.integers(0, 12)),
        st.tuples(st.sampled_from(["get", "pop", "make"]), KEYS, st.integers(0, 12)),
    ),
    max_size=60,
)


class PlainLru:
    """The same, in the most obvious way: a list of pairs, the one used last at the end."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.pairs: list[tuple[int, int]] = []

    def find(self, key: int) -> int | None:
        return next((value for known, value in self.pairs if known == key), None)

    def put(self, key: int, value: int) -> list[int]:
        dropped = [old for known, old in self.pairs if known == key]
        self.pairs = [*(pair for pair in self.pairs if pair[0] != key), (key, value)]
        while sum(weight for _, weight in self.pairs) > self.limit:
            dropped.append(self.pairs.pop(0)[1])
        return dropped

    def get(self, key: int) -> int | None:
        value = self.find(key)
        if value is not None:
            self.put(key, value)
        return value

    def pop(self, key: int) -> int | None:
        value = self.find(key)
        self.pairs = [pair for pair in self.pairs if pair[0] != key]
        return value

    def make(self, key: int, value: int) -> int:
        found = self.get(key)
        if found is not None:
            return found
        self.put(key, value)
        return value


@given(limit=st.integers(1, 20), steps=STEPS)
def test_what_is_kept_and_dropped_is_what_the_plainest_cache_would_keep_and_drop(
    limit: int, steps: list[tuple[str, int, int]]
) -> None:
    cache: Lru[int, int] = Lru(limit, lambda _, value: value)
    plain = PlainLru(limit)
    for step, key, value in steps:
        match step:
            case "put":
                assert cache.put(key, value) == plain.put(key, value)
            case "get":
                assert cache.get(key) == plain.get(key)
            case "pop":
                assert cache.pop(key) == plain.pop(key)
            case _:
                assert cache.get_or_make(key, partial(int, value)) == plain.make(key, value)
        assert cache.items() == plain.pairs
        assert cache.keys() == [key for key, _ in plain.pairs]
        assert len(cache) == len(plain.pairs)
        assert cache.weight == sum(weight for _, weight in plain.pairs) <= limit


def test_without_weights_the_limit_is_a_number_of_entries() -> None:
    cache: Lru[str, str] = Lru(2)
    cache.put("a", "A")
    cache.put("b", "B")
    cache.get("a")
    assert cache.put("c", "C") == ["B"]
    assert cache.keys() == ["a", "c"]


def test_threads_that_make_one_value_at_once_all_get_the_one_that_is_kept() -> None:
    cache: Lru[str, object] = Lru(4)
    together = threading.Barrier(4, timeout=30)

    def make() -> object:
        together.wait()  # all four are making it now
        return object()

    with ThreadPoolExecutor(4) as pool:
        values = list(pool.map(lambda _: cache.get_or_make("key", make), range(4)))
    assert {id(value) for value in values} == {id(cache.get("key"))}


def test_threads_that_use_a_cache_at_once_keep_its_weight_right() -> None:
    cache: Lru[int, int] = Lru(50, lambda _, value: value)

    def use(seed: int) -> None:
        for number in range(2000):
            key = (seed * 7 + number * 13) % 40
            cache.put(key, key % 9)
            cache.get((key + 1) % 40)
            cache.pop((key + 2) % 40)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(use, range(4)))
    assert cache.weight == sum(value for _, value in cache.items()) <= 50


class Counted:
    """A value that counts how often it is read."""

    def __init__(self) -> None:
        self.reads = 0

    def read(self) -> int:
        self.reads += 1
        return self.reads


def test_a_value_is_read_again_only_when_it_is_too_old_or_discarded() -> None:
    clock, counted = HandClock(), Counted()
    fresh = Fresh(counted.read, 0.5, clock)
    assert [fresh.get(), fresh.get()] == [1, 1]
    clock.now_s += 0.5
    assert fresh.get() == 1
    clock.now_s += 0.1
    assert fresh.get() == 2
    fresh.discard()
    assert [fresh.get(), fresh.get()] == [3, 3]


def test_a_discard_during_a_read_makes_the_next_caller_read_again() -> None:
    counted = Counted()

    def read() -> int:
        fresh.discard()
        return counted.read()

    fresh = Fresh(read, 1000.0, HandClock())
    assert [fresh.get(), fresh.get()] == [1, 2]


def test_a_read_that_fails_is_raised_and_the_next_caller_reads_again() -> None:
    answers: Iterator[Exception | int] = iter([ValueError("away"), 7])

    def read() -> int:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    fresh = Fresh(read, 1000.0, HandClock())
    with pytest.raises(ValueError, match="away"):
        fresh.get()
    assert fresh.get() == 7


def test_one_thread_reads_and_those_who_wait_share_its_value_or_give_up() -> None:
    reading, go, counted = threading.Event(), threading.Event(), Counted()

    def read() -> int:
        reading.set()
        assert go.wait(30)
        return counted.read()

    fresh = Fresh(read, 1000.0, HandClock())
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(fresh.get)
        assert reading.wait(30)
        with pytest.raises(TimeoutError):
            fresh.get(timeout_s=0.01)
        others = [pool.submit(fresh.get) for _ in range(2)]
        go.set()
        assert [first.result(), *(other.result() for other in others)] == [1, 1, 1]
    assert counted.reads == 1
