"""Values of the ledger, written by one language and read by the other, on a real Valkey."""

from __future__ import annotations

import json
from dataclasses import astuple
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from batchmill.jobs.cost import Parts, parse_pool_operator, write_pool_operator
from batchmill.jobs.job import JOB_MOVES, JobState
from batchmill.jobs.shard import SHARD_MOVES, Shard, ShardId, ShardRef, ShardState, Slice, format_shard_id, part_of
from batchmill.ledger.formats.encodings import (
    CommitInterval,
    EndedJob,
    Request,
    parse_ended,
    parse_paces,
    parse_request,
    parse_settled,
    split_place,
    worker_of,
    write_holder,
    write_parts,
    write_settled,
)
from batchmill.ledger.formats.settlement import Settled, SplitUp
from batchmill.ledger.scripting.header import text_of
from batchmill.ledger.scripting.script_text import states

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Lua = Callable[..., Any]

numbers = st.integers(0, 2**53)
shard_ids = st.lists(st.integers(0, 10**9), min_size=1, max_size=4).map(lambda parts: ShardId(tuple(parts)))
words = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FFF, exclude_categories=["Z", "C"]), min_size=1)
plans = st.builds(lambda first, rows: Shard("job-1", 0, ShardId((0,)), first, rows, ()).plan(), numbers, numbers)
settled_shards = st.builds(
    Settled,
    st.integers(0, 99),
    shard_ids,
    numbers,
    numbers,
    numbers,
    numbers,
    numbers,
    st.none() | numbers,
    st.just("") | plans,
)


@pytest.fixture(scope="module")
def lua(valkey_url: str) -> Iterator[Lua]:
    """Runs an expression with the functions of the ledger's encodings; arguments are `ARGV`."""
    client = redis.Redis.from_url(valkey_url)

    def run(expression: str, *args: str | bytes | int) -> Any:
        return client.eval("\n".join([states(), text_of("_encodings"), f"return {expression}"]), 0, *args)

    yield run
    client.close()


@settings(max_examples=50, deadline=None)
@given(shard=settled_shards)
def test_a_settled_shard_survives_both_languages(lua: Lua, shard: Settled) -> None:
    entry = lua(
        "write_settled{token = ARGV[1], rows = ARGV[2], rows_dead = ARGV[3], nbytes = ARGV[4], first_row = ARGV[5],"
        " results = given(ARGV[6]), plan = given(ARGV[7])}",
        *(shard.token, shard.rows, shard.rows_dead, shard.nbytes, shard.first_row),
        "" if shard.expanded_to is None else shard.expanded_to,
        shard.plan,
    )
    assert entry == write_settled(shard).encode()
    assert parse_settled(shard.stage, shard.shard_id, entry) == shard
    read = lua("cjson.encode(parse_settled(ARGV[1]))", write_settled(shard))
    assert json.loads(read) == {
        "token": str(shard.token),
        "rows": pytest.approx(shard.rows),
        "rows_dead": pytest.approx(shard.rows_dead),
    }


def test_a_shard_that_its_halves_replaced_survives_both_languages(lua: Lua) -> None:
    assert parse_settled(0, ShardId((3,)), lua("write_split_up(2)")) == SplitUp(ShardId((3,)), 2)
    assert lua("parse_settled(write_split_up(2))") is None


@settings(max_examples=50, deadline=None)
@given(shard_id=shard_ids, stage=st.integers(0, 99), token=numbers)
def test_an_attempt_survives_both_languages(lua: Lua, shard_id: ShardId, stage: int, token: int) -> None:
    ref = ShardRef("job-01abc", stage, shard_id, token)
    parts = [ref.job_id, str(stage), format_shard_id(shard_id), str(token)]

    assert ShardRef.from_key(lua("attempt_key(ARGV[1], ARGV[2], ARGV[3], ARGV[4])", *parts)) == ref
    attempt = json.loads(lua("cjson.encode(parse_attempt(ARGV[1]))", ref.attempt_key))
    assert [attempt[name] for name in ("job_id", "stage", "shard_id", "token")] == parts
    assert attempt["key"] == ref.attempt_key


@settings(max_examples=20, deadline=None)
@given(plan=plans)
def test_the_first_row_is_read_from_a_plan(lua: Lua, plan: str) -> None:
    assert int(lua("first_row_of(ARGV[1])", plan)) == json.loads(plan)[0]


@settings(max_examples=20, deadline=None)
@given(shard_id=shard_ids, first=st.integers(0, 2**53), rows=st.integers(1, 2**31), token=st.integers(0, 2**31))
def test_the_plan_of_a_part_is_read_as_a_shard(lua: Lua, shard_id: ShardId, first: int, rows: int, token: int) -> None:
    made = "plan_of_part(ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4])"
    part = Slice(0, 0, rows, rows, part=part_of(shard_id, token))
    expected = Shard("job-1", 1, shard_id, first, rows, (part,)).plan()
    assert lua(made, first, rows, format_shard_id(shard_id), token).decode() == expected


@settings(max_examples=20, deadline=None)
@given(used=st.builds(Parts, numbers, numbers, numbers, numbers, numbers))
def test_parts_of_an_attempts_time_survive_both_languages(lua: Lua, used: Parts) -> None:
    read = lua(
        "(function(parts) for n, us in ipairs(parts) do parts[n] = string.format('%.0f', us) end return parts end)"
        "(parse_parts(ARGV[1]))",
        write_parts(used),
    )
    assert [int(us) for us in read] == list(astuple(used))


def test_a_job_that_its_last_commit_ended_survives_both_languages(lua: Lua) -> None:
    text = lua("write_ended(ARGV[1], ARGV[2], ARGV[3], ARGV[4])", "job-1", "gpu my.embed", 5, 2)
    assert parse_ended(text) == EndedJob("job-1", "gpu", "my.embed", 5, 2)


@settings(max_examples=20, deadline=None)
@given(paces=st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)), min_size=1, max_size=20))
def test_the_last_sixteen_intervals_survive_both_languages(lua: Lua, paces: list[tuple[int, int]]) -> None:
    text = b""
    for length_ms, rows in paces:
        text = lua("append_pace(given(ARGV[1]), ARGV[2], ARGV[3])", text, length_ms, rows)

    assert parse_paces(text.decode()) == tuple(CommitInterval(*pace) for pace in paces[-16:])


@settings(max_examples=20, deadline=None)
@given(word=words, other=words)
def test_holders_and_requests_survive_both_languages(lua: Lua, word: str, other: str) -> None:
    holder = write_holder(word, other)
    assert lua("worker_of(ARGV[1])", holder).decode() == worker_of(holder.encode()) == word

    written = lua("write_request(ARGV[1], ARGV[2])", word, other)
    assert parse_request(written) == Request(word, other)
    assert [part.decode() for part in lua("{parse_request(ARGV[1])}", written)] == [word, other]


@settings(max_examples=20, deadline=None)
@given(epoch=numbers, name=words, lease_ms=st.integers(1, 10**9))
def test_a_leader_is_read_as_it_was_written(lua: Lua, epoch: int, name: str, lease_ms: int) -> None:
    read = lua("{parse_leader(write_leader(ARGV[1], ARGV[2], ARGV[3]))}", epoch, name, lease_ms)
    assert read == [str(epoch).encode(), name.encode(), lease_ms]
    former = lua("{parse_leader(ARGV[1])}", f"{epoch} {name}")
    assert former == [str(epoch).encode(), name.encode()]


@settings(max_examples=20, deadline=None)
@given(price=numbers, used=numbers, at=numbers, sharers=st.integers(1, 99))
def test_what_an_attempt_reported_is_read_as_it_was_written(
    lua: Lua, price: int, used: int, at: int, sharers: int
) -> None:
    read = json.loads(
        lua("cjson.encode(parse_metered(write_metered(ARGV[1], ARGV[2], ARGV[3], ARGV[4])))", price, used, at, sharers)
    )
    assert {name: pytest.approx(number) for name, number in read.items()} == {
        "price": price,
        "used": used,
        "at": at,
        "sharers": sharers,
    }


@settings(max_examples=20, deadline=None)
@given(size=st.integers(0, 10**12), digests=st.lists(st.binary(min_size=16, max_size=16), max_size=9))
def test_segments_and_places_of_the_row_cache_survive(lua: Lua, size: int, digests: list[bytes]) -> None:
    size_read, joined = lua("{parse_segment(write_segment(ARGV[1], {unpack(ARGV, 2)}))}", size, *digests)
    assert (size_read, joined) == (size, b"".join(digests))

    place = lua("write_place(ARGV[1], ARGV[2])", b"\0name\xff", b"\1" * 8)
    assert split_place(place) == (lua("segment_of(ARGV[1])", place), b"\1" * 8) == (b"\0name\xff", b"\1" * 8)


@given(pool=words, operator=words)
def test_an_operator_in_a_pool_survives_being_written_and_read(pool: str, operator: str) -> None:
    assert parse_pool_operator(write_pool_operator(pool, operator)) == (pool, operator)


def test_the_state_machines_of_the_scripts_are_those_of_python(lua: Lua) -> None:
    for before, after in product(JobState, JobState):
        allowed = lua("may_move_job(ARGV[1], ARGV[2])", before, after)
        assert bool(allowed) == (after in JOB_MOVES[before]), (before, after)
    for one, other in product(ShardState, ShardState):
        allowed = lua("may_move_shard(ARGV[1], ARGV[2])", one, other)
        assert bool(allowed) == (other in SHARD_MOVES[one]), (one, other)
    for state in JobState:
        found = lua(
            "{is_final(ARGV[1]) and 1 or 0, is_stopping(ARGV[1]) and 1 or 0, takes_shards(ARGV[1]) and 1 or 0}", state
        )
        assert found == [state.is_final, state.is_stopping, state.takes_shards]
