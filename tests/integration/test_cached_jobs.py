"""Jobs with the row cache, on a real service with two workers."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

import batchmill
from batchmill.cli import main
from support.operators.tally_operators import noted
from support.waiting import GRACE_S, until

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def empty_cache(client: batchmill.Client) -> None:
    client.clear_cache()


def texts(count: int) -> list[dict[str, object]]:
    return [{"id": n, "text": f"text {n * n}"} for n in range(count)]


def results(job: batchmill.Job) -> list[object]:
    job.wait(timeout=GRACE_S)
    return list(job.results())


def test_a_second_job_over_known_rows_computes_nothing_and_gives_the_same(
    client: batchmill.Client, tmp_path: Path
) -> None:
    log, rows = tmp_path / "log", texts(500)
    plain = client.submit("tally", rows, params={"log": str(log)})
    expected = results(plain)
    assert len(noted(log)) == 500
    assert client.cache().entries == 0

    first = client.submit("tally", rows, params={"log": str(log)}, cache=True)
    assert results(first) == expected
    assert len(noted(log)) == 1000
    assert first.status().rows_cached == 0
    stats = client.cache()
    assert (stats.entries, stats.misses) == (500, 500)
    assert 0 < stats.segments < 50

    second = client.submit("tally", rows[::-1], params={"log": str(log)}, cache=True)
    assert results(second) == expected[::-1]
    assert len(noted(log)) == 1000
    status = second.status()
    assert (status.rows_done, status.rows_cached, status.rows_dead) == (500, 500, 0)

    other = client.submit("tally", rows, params={"log": str(log), "factor": 3}, cache=True)
    assert len(results(other)) == 500
    assert len(noted(log)) == 1500


def test_equal_rows_of_a_job_are_computed_about_once(client: batchmill.Client, tmp_path: Path) -> None:
    log = tmp_path / "log"
    rows = [{"id": n, "text": f"text {n % 7}"} for n in range(600)]
    job = client.submit("tally", rows, params={"log": str(log)}, cache=True)
    assert results(job) == [row | {"length": 6} for row in rows]
    shards = job.status().shards_done
    assert 7 <= len(noted(log)) <= 7 * min(shards, 4)  # two workers of two shards each may begin with the same rows
    assert job.status().rows_cached == 600 - len(noted(log))


def test_rows_given_up_on_are_tried_again_by_the_next_job(client: batchmill.Client, tmp_path: Path) -> None:
    log = tmp_path / "log"
    rows = [{"id": n, "text": "bad" if n % 10 == 3 else f"text {n}"} for n in range(50)]
    for _ in range(2):
        job = client.submit("tally", rows, params={"log": str(log)}, cache=True)
        assert [row["id"] for row in results(job)] == [n for n in range(50) if n % 10 != 3]  # type: ignore[index]
        assert [letter.index for letter in job.dead_letters()] == [3, 13, 23, 33, 43]
        assert all(letter.row == rows[letter.index] for letter in job.dead_letters())
    assert noted(log).count("bad") == 2
    assert job.status().rows_cached == 45


def test_an_operator_that_expands_gives_all_results_of_known_rows(client: batchmill.Client, tmp_path: Path) -> None:
    log = tmp_path / "log"
    rows = [{"text": "one two"}, {"text": ""}, {"text": "three"}]
    made = [
        results(client.submit("tally_words", rows, params={"log": str(log)}, carry=[], cache=True)) for _ in range(2)
    ]
    assert made[0] == made[1]
    assert [row["word"] for row in made[0]] == ["one", "two", "three"]  # type: ignore[index]
    assert [row["source_row"] for row in made[0]] == [0, 0, 2]  # type: ignore[index]
    assert len(noted(log)) == 3


def test_an_operator_that_is_no_function_of_a_row_is_refused(client: batchmill.Client, tmp_path: Path) -> None:
    params = {"log": str(tmp_path / "log")}
    with pytest.raises(batchmill.InvalidParams, match="'tally_by_chance' cannot be cached"):
        client.submit("tally_by_chance", [{"text": "a"}], params=params, cache=True)
    assert len(results(client.submit("tally_by_chance", [{"text": "a"}], params=params))) == 1


def test_deleting_a_job_leaves_the_cache_and_clearing_it_leaves_no_file(
    tmp_path: Path, service_folder: Path, service_record: dict[str, str]
) -> None:
    log = tmp_path / "log"
    options = ["--url", service_record["url"], "--token", service_record["token"]]
    runner = CliRunner()
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in texts(20)))
    command = ["submit", "tally", str(source), "--param", f"log={log}", "--cache", "--wait", "--json", *options]
    first = json.loads(runner.invoke(main, command).stdout)
    assert runner.invoke(main, ["delete", first["id"], *options]).exit_code == 0

    second = json.loads(runner.invoke(main, command).stdout)
    assert (second["rows_done"], second["rows_cached"], len(noted(log))) == (20, 20, 20)
    assert "20 of 20 rows (20 from the cache)" in runner.invoke(main, ["status", second["id"], *options]).output

    shown = runner.invoke(main, ["cache", *options]).output
    assert "20 of 40 (50%)" in shown
    assert json.loads(runner.invoke(main, ["cache", "--json", *options]).output)["entries"] == 20
    files = service_folder / "blobs" / "cache"
    assert len(list(files.iterdir())) == 1
    assert json.loads(runner.invoke(main, ["cache", "--clear", "--json", *options]).output)["entries"] == 0
    until(lambda: not files.exists() or not list(files.iterdir()), "the deletion of what was cached")


def test_the_cache_is_shown_and_cleared_only_to_those_with_a_token(service_record: dict[str, str]) -> None:
    for method in ("GET", "DELETE"):
        request = urllib.request.Request(f"{service_record['url']}/v1/cache", method=method)  # noqa: S310  # http
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request)  # noqa: S310  # the test's own service
        with refused.value:
            assert refused.value.code == 401
