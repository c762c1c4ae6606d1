"""Which waiting row goes to which place of an engine: pure, without an engine."""

from __future__ import annotations

import random

import pytest

from batchmill_worker.generation.placement import BLOCK_TOKENS, Placement, blocks_of, shared
from batchmill_worker.generation.shared_placement import SharedPlacement

PLACES = 4
PREFIX_TOKENS = 10 * BLOCK_TOKENS


def prompt(prefix: int, number: int) -> list[int]:
    """A prompt of a long prefix and a short end of its own."""
    return [prefix * 1000 + place for place in range(PREFIX_TOKENS)] + [1_000_000 + number] * BLOCK_TOKENS


def computed_tokens(
    order: list[tuple[int, int]], *, keeps_prefixes: bool, max_tokens: int = 8
) -> tuple[int, list[int]]:
    """Run rows, one token of each answer at a time; return the tokens of prompts computed, and the rows in order."""
    placement: Placement[int] = Placement(PLACES, keeps_prefixes=keeps_prefixes)
    prompts = {number: prompt(prefix, number) for prefix, number in order}
    for _, number in order:
        placement.add(number, prompts[number], max_tokens)
    has: list[list[int]] = [[] for _ in range(PLACES)]
    running: dict[int, int] = {}  # by place, how many steps are left
    computed, entered = 0, []
    while len(placement) or running:
        while (found := placement.next_row(sorted(set(range(PLACES)) - set(running)), is_idle=not running)) is not None:
            number, place = found
            common = 0
            while common < len(has[place]) and has[place][common] == prompts[number][common]:
                common += 1
            computed += len(prompts[number]) - common
            has[place] = prompts[number]
            running[place] = 1 + number % 3
            entered.append(number)
        running = {place: left - 1 for place, left in running.items() if left > 1}
    return computed, entered


def shuffled(prefixes: int, rows_each: int) -> list[tuple[int, int]]:
    rows = [(number % prefixes, number) for number in range(prefixes * rows_each)]
    random.Random(3).shuffle(rows)
    return rows


@pytest.mark.parametrize("prefixes", [8, 3])
def test_each_prefix_is_computed_once_and_every_row_runs(prefixes: int) -> None:
    rows = shuffled(prefixes, 8)

    computed, entered = computed_tokens(rows, keeps_prefixes=True)

    assert sorted(entered) == sorted(number for _, number in rows)
    assert computed == prefixes * PREFIX_TOKENS + len(rows) * BLOCK_TOKENS
    assert computed_tokens(rows, keeps_prefixes=False)[0] > 2 * computed


def test_rows_without_a_common_prefix_run_in_their_order() -> None:
    rows = shuffled(24, 1)

    assert computed_tokens(rows, keeps_prefixes=True)[1] == [number for _, number in rows]


def test_long_answers_are_worth_computing_a_prefix_in_several_places() -> None:
    placement: Placement[int] = Placement(PLACES, keeps_prefixes=True)
    for number in range(8):
        placement.add(number, prompt(0, number), 500)

    taken = [placement.next_row([place], is_idle=place == 0) for place in range(PLACES)]

    assert taken == [(place, place) for place in range(PLACES)]


def test_a_place_stays_free_if_it_would_compute_for_a_short_answer_what_another_one_has() -> None:
    placement: Placement[int] = Placement(PLACES, keeps_prefixes=True)
    for number in range(2):
        placement.add(number, prompt(0, number), 8)

    assert placement.next_row([0, 1], is_idle=True) == (0, 0)
    assert placement.next_row([1], is_idle=False) is None
    assert placement.next_row([0], is_idle=True) == (1, 0)


def test_rows_of_a_shard_that_leaves_wait_no_more() -> None:
    placement: Placement[int] = Placement(PLACES, keeps_prefixes=True)
    for number in range(6):
        placement.add(number, prompt(0, number), 8)

    placement.remove(lambda number: number % 2 == 0)

    assert len(placement) == 3
    assert placement.next_row([0], is_idle=True) == (1, 0)


def test_prompts_share_blocks_exactly_as_far_as_their_tokens_are_equal() -> None:
    one, other = list(range(100)), [*range(50), *range(900, 950)]

    assert shared(blocks_of(one), blocks_of(other)) == 50 // BLOCK_TOKENS
    assert shared(blocks_of(one), blocks_of(one[1:])) == 0
    assert blocks_of(one[: BLOCK_TOKENS - 1]) == ()


@pytest.mark.parametrize("keeps_prefixes", [True, False])
def test_urgent_rows_go_first_and_others_can_be_held_back(keeps_prefixes: bool) -> None:
    placement: Placement[str] = Placement(PLACES, keeps_prefixes=keeps_prefixes)
    for number, name in enumerate(("a", "b")):
        placement.add(name, prompt(1, number), 8)
    placement.add("urgent", prompt(2, 9), 8, is_urgent=True)

    def following(*, only_urgent: bool) -> str | None:
        found = placement.next_row([0, 1], is_idle=False, only_urgent=only_urgent)
        return found and found[0]

    assert placement.urgent == 1
    assert following(only_urgent=True) == "urgent"
    assert following(only_urgent=True) is None
    assert {following(only_urgent=False), following(only_urgent=False)} <= {"a", "b", None}
    assert placement.urgent == 0


def computed_together(rows: list[tuple[int, int]], placement: Placement[int]) -> tuple[int, int]:
    """Run rows in an engine with one cache: what a row shares with one that has a token is not computed.

    Returns the tokens of prompts computed, and the steps. A row makes its first token in the step after its entry.
    """
    prompts = {number: prompt(prefix, number) for prefix, number in rows}
    for _, number in rows:
        placement.add(number, prompts[number], 8)
    has: set[int] = set()
    running: dict[int, int] = {}  # by row, how many steps are left
    computed = steps = 0
    while len(placement) or running:
        free = range(PLACES - len(running))
        entered: list[int] = []
        while len(free) > len(entered):
            found = placement.next_row(free[len(entered) :], is_idle=not running and not entered)
            if found is None:
                break
            entered.append(found[0])
            blocks = blocks_of(prompts[found[0]])
            computed += sum(BLOCK_TOKENS for block in blocks if block not in has)
        running |= {number: 1 + number % 3 for number in entered}
        for number in entered:
            has.update(blocks_of(prompts[number]))
            placement.begun(number)
        running = {number: left - 1 for number, left in running.items() if left > 1}
        steps += 1
    return computed, steps


@pytest.mark.parametrize("prefixes", [8, 3])
def test_a_prefix_in_a_shared_cache_is_computed_by_its_leader(prefixes: int) -> None:
    rows = sorted(shuffled(prefixes, 8))  # the rows of a prefix follow each other

    computed, steps = computed_together(rows, SharedPlacement(PLACES))
    together, least = computed_together(rows, Placement(PLACES, keeps_prefixes=False))

    assert computed == prefixes * PREFIX_TOKENS + len(rows) * BLOCK_TOKENS
    assert together > 1.5 * computed
    assert steps <= least + prefixes


def test_rows_without_a_repeated_prefix_wait_for_nothing_in_a_shared_cache() -> None:
    rows = [(number, number) for number in range(20)]

    assert computed_together(rows, SharedPlacement(PLACES)) == computed_together(
        rows, Placement(PLACES, keeps_prefixes=False)
    )


def test_a_row_whose_leader_has_failed_waits_no_longer() -> None:
    placement: SharedPlacement[int] = SharedPlacement(PLACES)
    for number in range(3):
        placement.add(number, prompt(0, number), 8)

    first = placement.next_row([0, 1], is_idle=True)
    assert placement.next_row([1], is_idle=False) is None
    placement.ended(0)

    assert first == (0, 0)
    assert placement.next_row([1], is_idle=False) == (1, 1)


def test_urgent_rows_do_not_wait_for_a_prefix_in_a_shared_cache() -> None:
    placement: SharedPlacement[int] = SharedPlacement(PLACES)
    placement.add(0, prompt(0, 0), 8)
    assert placement.next_row([0, 1], is_idle=True) == (0, 0)
    placement.add(1, prompt(0, 1), 8)
    placement.add(2, prompt(0, 2), 8, is_urgent=True)

    assert placement.next_row([1, 2], is_idle=False) == (2, 1)
    assert placement.next_row([2], is_idle=False) is None
