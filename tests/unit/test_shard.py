from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from batchmill.jobs.shard import (
    SHARD_MOVES,
    Shard,
    ShardId,
    ShardRef,
    ShardState,
    Slice,
    format_shard_id,
    parse_shard_id,
)

shard_ids = st.lists(st.integers(0, 10**9), min_size=1, max_size=5).map(lambda parts: ShardId(tuple(parts)))
slices = st.builds(
    Slice,
    file=st.integers(0, 10**6),
    start=st.integers(0, 2**53),
    stop=st.integers(0, 2**53),
    rows=st.integers(0, 10**9),
    line=st.integers(0, 10**12),
    staged=st.sampled_from(["", "jobs/job-1/staged/00000001"]),
)


@given(shard_ids)
def test_a_shard_id_survives_being_written_and_read(shard_id: ShardId) -> None:
    assert parse_shard_id(format_shard_id(shard_id)) == shard_id


@given(shard_ids, st.integers(0, 9), st.integers(0, 10**6))
def test_an_attempt_survives_being_written_and_read(shard_id: ShardId, stage: int, token: int) -> None:
    ref = ShardRef("job-01abc", stage, shard_id, token)
    assert ShardRef.from_key(ref.attempt_key.encode()) == ref


@given(shard_ids, st.lists(slices, max_size=5).map(tuple))
def test_a_plan_survives_being_written_and_read(shard_id: ShardId, pieces: tuple[Slice, ...]) -> None:
    shard = Shard("job-1", 0, shard_id, 7, 3, pieces)
    assert Shard.from_plan("job-1", 0, shard_id, shard.plan()) == shard


def test_order_of_ids_is_input_order_whatever_was_split() -> None:
    ids = ["16", "17.0", "17.1.0", "17.1.1", "18", "100"]
    assert sorted([ids[3], ids[5], ids[0], ids[4], ids[2], ids[1]], key=parse_shard_id) == ids


def test_only_final_states_have_no_way_on() -> None:
    assert {state for state in ShardState if not SHARD_MOVES[state]} == {s for s in ShardState if s.is_final}
