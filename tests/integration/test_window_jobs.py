"""Windows as a stage of a chain, end to end: what fires, in shards of any size, and what becomes of late rows."""

from __future__ import annotations

import json
import math
import random
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

import batchmill
from batchmill import Stage, Window
from batchmill.errors import Conflict, InvalidParams, InvalidRequest
from batchmill.ledger.scripting.connection import connect
from support.waiting import GRACE_S, until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import redis

MINUTE_MS = 60_000
START_MS = 1_900_000_020_000  # a whole minute


def events(count: int, seed: int = 1) -> list[dict[str, Any]]:
    """Return rows of some users, a second apart, each up to 8 s late."""
    rng = random.Random(seed)
    return [
        {"user": rng.choice("abc"), "at": START_MS + n * 1000 - rng.randrange(8000), "n": n, "score": rng.random()}
        for n in range(count)
    ]


def by_window(rows: Sequence[dict[str, Any]]) -> dict[tuple[str, int], list[dict[str, Any]]]:
    found = defaultdict(list)
    for row in rows:
        found[row["user"], row["at"] // MINUTE_MS * MINUTE_MS].append(row)
    return found


def start_ms(row: dict[str, Any]) -> int:
    seconds: float = row["window_start"].timestamp()
    return round(seconds * 1000)


def test_every_row_is_in_its_window_whatever_the_size_of_shards(client: batchmill.Client) -> None:
    rows = events(9000)
    window = Window(
        by="user",
        time="at",
        tumbling="1m",
        wait="8s",
        aggregate={"rows": "count", "total": "sum:n", "best": "top:score:2", "numbers": "collect:n"},
    )
    job = client.submit(rows=rows, stages=[Stage("echo"), window, Stage("echo", name="last")]).wait(GRACE_S)
    found = list(job.results())
    expected = by_window(rows)
    assert {(one["user"], start_ms(one)) for one in found} == set(expected)
    assert len(found) == len(expected)
    for one in found:
        inside = sorted(expected[one["user"], start_ms(one)], key=lambda row: row["at"])
        assert one["revision"] == 0
        assert one["merged_into"] is None
        assert one["rows"] == len(inside)
        assert one["total"] == sum(row["n"] for row in inside)
        assert one["best"] == sorted((row["score"] for row in inside), reverse=True)[:2]
        assert Counter(one["numbers"]) == Counter(row["n"] for row in inside)
    assert [one["source_row"] for one in found] == list(range(len(found)))
    assert job.status().rows_dead == 0


@pytest.mark.parametrize("groups", [2, 5])
def test_groups_of_keys_make_the_windows_of_one(client: batchmill.Client, groups: int) -> None:
    rows = [{**row, "user": f"{row['user']}{row['n'] % 7}"} for row in events(6000)]
    rows += [{"user": "late", "at": START_MS, "n": -1, "score": 0.0}, {"user": "b", "at": None, "n": -2, "score": 0.0}]
    params: dict[str, Any] = {"by": "user", "time": "at", "tumbling": "1m", "wait": "2s", "late": "3s"}
    made = []
    for count in (1, groups):
        window = Window(**params, aggregate={"rows": "count", "ids": "collect:n"}, groups=count)
        job = client.submit(rows=rows, stages=[Stage("echo"), window, Stage("echo", name="last")]).wait(GRACE_S)
        found = [{**row, "source_row": None} for row in job.results()]
        letters = [(one.error_type, one.row["n"]) for one in job.dead_letters()]
        assert len({row["source_row"] for row in job.results()}) == len(found)
        made.append((Counter(map(str, found)), Counter(letters)))
    assert made[0] == made[1]
    assert {kind for kind, _ in made[0][1]} == {"late", "bad_value"}


def test_groups_of_a_stream_fire_as_time_passes_and_when_it_is_drained(
    client: batchmill.Client, tmp_path: Path
) -> None:
    output: dict[str, Any] = {"path": str(tmp_path / "out"), "format": "jsonl", "roll_s": 1}
    window = Window(by="user", time="at", tumbling="1s", idle="200ms", aggregate={"numbers": "collect:n"}, groups=3)
    stream = client.submit(source=batchmill.Push("grouped"), stages=[Stage("echo"), window], output=output)
    rows = [{"user": user, "at": START_MS + n * 100, "n": n} for n in range(25) for user in "abcd"]
    client.push("grouped", rows[:50])
    client.push("grouped", rows[50:])
    until(lambda: len(list(stream.results(follow=False))) == 12, "the last windows fire without another row")
    client.push("grouped", [{"user": user, "at": START_MS + 60_000, "n": 99} for user in "ab"])
    until(lambda: stream.status().stages[0].rows_done == len(rows) + 2, "the last rows are read")
    stream.drain()
    found = [(one["user"], start_ms(one) - START_MS, one["numbers"]) for one in stream.wait(GRACE_S).results()]
    expected = [
        (user, second * 1000, [n for n in range(25) if n // 10 == second]) for user in "abcd" for second in range(3)
    ]
    expected += [("a", 60_000, [99]), ("b", 60_000, [99])]
    assert sorted(found) == sorted(expected)
    lines = [line for file in (tmp_path / "out").iterdir() for line in file.read_text().splitlines()]
    assert sorted((row["user"], row["numbers"]) for row in map(json.loads, lines)) == sorted(
        (user, numbers) for user, _, numbers in expected
    )


def test_windows_of_what_groups_have_made_are_refused(client: batchmill.Client) -> None:
    first = Window(by="user", time="at", tumbling="1m", groups=2)
    second = Window(time="window_end", tumbling="1h", name="hours")
    with pytest.raises(InvalidRequest, match="stage 'hours' has windows of what stage 'window' has made, which has 2"):
        client.submit(rows=[{"at": 1}], stages=[Stage("echo"), first, Stage("echo", name="last"), second])


def test_late_rows_are_dead_letters_and_make_revisions_before(client: batchmill.Client) -> None:
    times = [10, 70, 20, 95, 30, 125, 40]  # the watermark passes 60 at 70, and 90 at 95
    rows = [{"at": START_MS + time * 1000, "n": n} for n, time in enumerate(times)]
    window = Window(time="at", tumbling="1m", late="30s", aggregate={"numbers": "collect:n"})
    job = client.submit(rows=rows, stages=[Stage("echo"), window]).wait(GRACE_S)
    found = [((start_ms(one) - START_MS) // 1000, one["revision"], one["numbers"]) for one in job.results()]
    assert found == [(0, 0, [0]), (0, 1, [0, 2]), (60, 0, [1, 3]), (120, 0, [5])]
    letters = list(job.dead_letters())
    assert [(one.error_type, one.row["n"]) for one in letters] == [("late", 4), ("late", 6)]
    with pytest.raises(Conflict, match="depend on all rows"):
        job.replay()


def test_sessions_and_count_windows_fire_at_the_end_of_the_source(client: batchmill.Client) -> None:
    rows = [{"user": user, "at": START_MS + time} for user, time in (("a", 0), ("b", 10), ("a", 900), ("a", 5000))]
    sessions = client.submit(rows=rows, stages=[Stage("echo"), Window(by=["user"], time="at", session="2s")])
    counts = client.submit(rows=rows, stages=[Stage("echo"), Window(by="user", count=2)])
    found = [(one["user"], start_ms(one) - START_MS, one["rows"]) for one in sessions.wait(GRACE_S).results()]
    assert found == [("b", 10, 1), ("a", 0, 2), ("a", 5000, 1)]  # by their ends
    assert [(one["user"], one["rows"]) for one in counts.wait(GRACE_S).results()] == [("a", 2), ("b", 1), ("a", 1)]


def test_a_stage_with_windows_that_is_wrong_is_refused(client: batchmill.Client) -> None:
    rows = [{"at": 1}]
    with pytest.raises(InvalidRequest, match="keeps state of the rows of a stage before it; it cannot be the first"):
        client.submit(rows=rows, stages=[Window(time="at", tumbling="1m"), Stage("echo")])
    with pytest.raises(InvalidParams, match="tumbling"):
        client.submit(rows=rows, stages=[Stage("echo"), Window(time="at", tumbling="-1m")])
    raw = {"operator": "window", "params": {"time": "at", "sliding": ["1m", "1h"]}}
    with pytest.raises(InvalidParams, match=r"stage 'window': .* which is not longer; got 1m and 1h"):
        client.submit(rows=rows, stages=[{"operator": "echo"}, raw])


def test_an_input_without_rows_has_no_windows(client: batchmill.Client) -> None:
    job = client.submit(rows=[{"at": "never"}], stages=[Stage("echo"), Window(time="at", tumbling="1m")])
    assert list(job.wait(GRACE_S).results()) == []
    assert [one.error_type for one in job.dead_letters()] == ["bad_value"]


def test_a_row_whose_key_is_not_a_number_is_in_no_window(client: batchmill.Client) -> None:
    rows = pa.table({"key": [1.5, math.nan, 1.5], "at": [START_MS] * 3})
    job = client.submit(rows=rows, stages=[Stage("echo"), Window(by="key", time="at", tumbling="1m")]).wait(GRACE_S)
    assert [(row["key"], row["rows"]) for row in job.results()] == [(1.5, 2)]
    assert [(one.error_type, one.index) for one in job.dead_letters()] == [("bad_value", 1)]


def test_windows_of_a_stream_fire_as_time_passes_and_when_it_is_drained(client: batchmill.Client) -> None:
    window = Window(by="user", time="at", tumbling="1s", idle="200ms", aggregate={"numbers": "collect:n"})
    stream = client.submit(source=batchmill.Push("clicks"), stages=[Stage("echo"), window])
    rows = [{"user": user, "at": START_MS + n * 100, "n": n} for n in range(25) for user in "ab"]
    client.push("clicks", rows[:30])
    client.push("clicks", rows[30:])
    fired: list[dict[str, Any]] = []

    def have_all_fired() -> bool:
        fired[:] = stream.results(follow=False)
        return len(fired) == 6

    until(have_all_fired, "the last windows fire without another row")
    client.push("clicks", [{"user": "a", "at": START_MS + 60_000, "n": 99}])
    until(lambda: stream.status().stages[0].rows_done == len(rows) + 1, "the last row is read")
    stream.drain()
    found = [(one["user"], start_ms(one) - START_MS, one["numbers"]) for one in stream.wait(GRACE_S).results()]
    expected = {
        (user, second * 1000): [n for n in range(25) if n // 10 == second] for user in "ab" for second in range(3)
    }
    assert {(user, start): numbers for user, start, numbers in found} == {**expected, ("a", 60_000): [99]}
    assert len(found) == 7


def test_a_window_of_a_stream_fires_when_the_watermark_passes_it_and_what_is_later_is_a_dead_letter(
    client: batchmill.Client, service_record: dict[str, str]
) -> None:
    window = Window(by="user", time="at", tumbling="1s", wait="200ms", aggregate={"numbers": "collect:n"})
    source = batchmill.RedisStream("windowed", json_field="row")
    stream = client.submit(source=source, stages=[Stage("echo"), window, Stage("echo", name="last")])
    with connect(service_record["redis_url"]) as server:
        _add(server, [(0, 0), (1, 400), (2, 1100), (3, 900)])  # the watermark is at 900: nothing fires
        until(lambda: stream.status().stages[0].rows_done == 4, "the first stage's end with four rows")
        _add(server, [(4, 1200)])
        assert _fired(stream, 1) == [(0, [0, 1, 3])]
        _add(server, [(5, 999), (6, 2500)])  # the first window is gone
        assert _fired(stream, 2) == [(0, [0, 1, 3]), (1000, [2, 4])]
        until(lambda: stream.status().rows_dead == 1, "the late row's end")
        assert stream.status().state == "running"
    stream.drain()
    stream.wait(GRACE_S)
    assert _fired(stream, 3) == [(0, [0, 1, 3]), (1000, [2, 4]), (2000, [6])]
    assert [(one.error_type, one.row["n"]) for one in stream.dead_letters()] == [("late", 5)]


def _add(server: redis.Redis, rows: Sequence[tuple[int, int]]) -> None:
    """Add rows to the stream. rows: their number, and their time in milliseconds from the first one."""
    for n, at in rows:
        server.xadd("windowed", {"row": json.dumps({"user": "a", "at": START_MS + at, "n": n})})


def _fired(stream: batchmill.Job, count: int) -> list[tuple[int, list[int]]]:
    """Return the start and the numbers of the windows that have fired, once there are that many."""
    found: list[dict[str, Any]] = []

    def have_fired() -> bool:
        found[:] = stream.results(follow=False)
        return len(found) >= count

    until(have_fired, f"{count} windows")
    return [(start_ms(one) - START_MS, one["numbers"]) for one in found]
