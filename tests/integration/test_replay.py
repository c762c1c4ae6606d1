"""Dead letters of ended jobs: run again into their places, edited, exported, purged."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from batchmill.cli import main
from batchmill.cli.arguments.selection import find_job
from batchmill.errors import Conflict, InvalidRequest, InvalidRows
from batchmill.jobs.job import RetryPolicy
from support.outputs import manifest_path
from support.waiting import GRACE_S

if TYPE_CHECKING:
    from pathlib import Path

    import batchmill

ROWS = [{"id": n, "at": n / 2, "raw": bytes([n % 256])} for n in range(200)]
DEAD = list(range(0, 200, 5))


@pytest.fixture
def cure(tmp_path: Path) -> Path:
    """The file that lets `reluctant` do every row."""
    return tmp_path / "cure"


def _submit(client: batchmill.Client, cure: Path, rows: Any = ROWS, **options: Any) -> batchmill.Job:
    return client.submit("reluctant", rows, params={"cure": str(cure)}, **options).wait(timeout=GRACE_S)


def _expected(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row | {"out": row["id"] * 2} for row in rows]


def test_replayed_rows_take_their_places_in_the_results(client: batchmill.Client, cure: Path) -> None:
    job = _submit(client, cure)
    assert [letter.index for letter in job.dead_letters()] == DEAD
    cure.touch()
    replay = job.replay().wait(timeout=GRACE_S)
    status = job.status()
    assert (status.rows_done, status.rows_dead, status.state) == (200, 0, "completed")
    assert list(job.results()) == _expected(ROWS)
    assert job.dead_letters() == []
    assert job.dead_letter_counts() == {}
    assert replay.status().replay_of == job.id


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_replayed_rows_take_their_places_in_a_finished_output(
    client: batchmill.Client, cure: Path, tmp_path: Path, form: str
) -> None:
    rows = [{"id": n} for n in range(200)]
    source = tmp_path / "in.parquet"
    pq.write_table(pa.Table.from_pylist(rows), source)
    output = tmp_path / "out"
    job = _submit(client, cure, None, source=source, output={"path": output, "format": form})
    cure.touch()
    job.replay().wait(timeout=GRACE_S)
    manifest = json.loads(manifest_path(output).read_text())
    assert (manifest["rows"], manifest["rows_dead"], manifest["state"]) == (200, 0, "completed")
    files = {path.name for path in output.iterdir() if path.name.startswith("part-")}
    assert files == {part["name"] for part in manifest["parts"]}
    if form == "parquet":
        found = [row for part in manifest["parts"] for row in pq.read_table(output / part["name"]).to_pylist()]
    else:
        lines = [line for part in manifest["parts"] for line in (output / part["name"]).read_text().splitlines()]
        found = [json.loads(line) for line in lines]
    assert found == _expected(rows)
    assert list(job.results()) == _expected(rows)


def test_only_the_chosen_rows_are_replayed_and_the_others_stay_dead(client: batchmill.Client, cure: Path) -> None:
    job = _submit(client, cure)
    cure.touch()
    job.replay([5, 190]).wait(timeout=GRACE_S)
    assert [letter.index for letter in job.dead_letters()] == [n for n in DEAD if n not in (5, 190)]
    assert job.status().rows_dead == len(DEAD) - 2
    assert [row["id"] for row in job.results()] == [n for n in range(200) if n % 5 or n in (5, 190)]
    job.replay(error_type="RowError").wait(timeout=GRACE_S)
    assert list(job.results()) == _expected(ROWS)


def test_a_name_that_a_replay_shares_with_its_job_means_the_job(client: batchmill.Client, cure: Path) -> None:
    job = _submit(client, cure, name="named")
    replay = job.replay([5]).wait(timeout=GRACE_S)
    assert replay.status().name == "named"
    assert find_job(client, "named").id == job.id


def test_rows_that_die_again_keep_their_letters_with_all_attempts(client: batchmill.Client, cure: Path) -> None:
    job = _submit(client, cure)
    before = job.dead_letters()
    replay = job.replay().wait(timeout=GRACE_S)
    after = job.dead_letters()
    assert [letter.index for letter in after] == DEAD
    assert {letter.attempts for letter in after} == {before[0].attempts * 2}
    assert {letter.replay for letter in after} == {replay.id}
    assert [letter.first_failed_at for letter in after] == [letter.first_failed_at for letter in before]
    assert job.status().rows_dead == len(DEAD)
    with pytest.raises(Conflict, match=job.id):
        replay.replay()


def test_a_replay_of_two_rows_that_raise_again_completes_and_adds_their_attempts(client: batchmill.Client) -> None:
    rows = [{"id": n} for n in range(40)]
    retry = RetryPolicy(max_attempts=2, backoff_s=0)
    job = client.submit("stubborn", rows, params={"ids": [3, 17]}, retry=retry).wait(timeout=GRACE_S)
    expected = [{"id": n, "out": 2 * n} for n in range(40) if n not in (3, 17)]
    for round_number in (1, 2, 3):
        letters = job.dead_letters()
        assert [(letter.index, letter.error_type) for letter in letters] == [(3, "ValueError"), (17, "ValueError")]
        assert [letter.attempts for letter in letters] == [2 * round_number] * 2
        assert list(job.results()) == expected
        replay = job.replay().wait(timeout=GRACE_S).status()
        assert (replay.state, replay.rows_done, replay.rows_dead) == ("completed", 0, 2)
    assert (job.status().rows_done, job.status().rows_dead) == (38, 2)


def test_edited_rows_are_run_as_edited(client: batchmill.Client, cure: Path) -> None:
    rows = [{"id": -1 if n == 7 else n + 1000 * (n % 5 == 0), "raw": b"\x00\xff"} for n in range(30)]
    job = client.submit("reluctant", rows, params={"cure": str(cure), "every": 7}, carry=["id", "raw"]).wait(
        timeout=GRACE_S
    )
    dead = [letter.index for letter in job.dead_letters()]
    assert 7 in dead
    job.replay(edits={7: {"id": 1, "raw": b"\x01"}}).wait(timeout=GRACE_S)
    assert [letter.index for letter in job.dead_letters()] == [index for index in dead if index != 7]
    at = [n for n in range(30) if n not in dead or n == 7].index(7)
    assert list(job.results())[at] == {"id": 1, "raw": b"\x01", "out": 2}


def test_an_edit_that_does_not_fit_is_refused_with_row_and_column(client: batchmill.Client, cure: Path) -> None:
    job = _submit(client, cure)
    with pytest.raises(InvalidRows, match="row 5 gives column 'id' the value 'many'"):
        job.replay(edits={5: {"id": "many"}})
    with pytest.raises(InvalidRows, match="sets a column 'ids'"):
        job.replay(edits={5: {"ids": 1}})
    with pytest.raises(InvalidRequest, match=r"not among the dead letters of job .*: 1, 7"):
        job.replay([1, 5, 7])
    assert job.status().rows_dead == len(DEAD)


def test_a_job_without_dead_letters_has_nothing_to_replay(client: batchmill.Client, cure: Path) -> None:
    cure.touch()
    job = _submit(client, cure)
    with pytest.raises(InvalidRequest, match="no dead letters to replay"):
        job.replay()


def test_a_running_job_cannot_be_replayed_yet(client: batchmill.Client, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    job = client.submit("gated", [{"id": 1}], params={"gate": str(gate)})
    with pytest.raises(Conflict, match="when it has ended"):
        job.replay()
    gate.touch()
    job.wait(timeout=GRACE_S)


def test_a_repeated_request_under_one_key_is_one_replay(client: batchmill.Client, cure: Path) -> None:
    job = _submit(client, cure)
    first = job.replay(idempotency_key="again-" + job.id)
    assert job.replay(idempotency_key="again-" + job.id).id == first.id
    first.wait(timeout=GRACE_S)


def test_purged_letters_are_gone_and_the_rest_can_still_be_replayed(client: batchmill.Client, cure: Path) -> None:
    job = _submit(client, cure)
    assert job.purge_dead_letters([0, 10]) == 2
    assert [letter.index for letter in job.dead_letters()] == [n for n in DEAD if n not in (0, 10)]
    assert job.status().rows_dead == len(DEAD)
    cure.touch()
    job.replay().wait(timeout=GRACE_S)
    assert [row["id"] for row in job.results()] == [n for n in range(200) if n not in (0, 10)]
    assert job.status().rows_dead == 2
    assert job.purge_dead_letters() == 0


def test_the_shell_exports_edits_and_replays(
    client: batchmill.Client, service_record: dict[str, str], cure: Path, tmp_path: Path
) -> None:
    job = _submit(client, cure)
    env = {"BATCHMILL_URL": service_record["url"], "BATCHMILL_TOKEN": service_record["token"]}
    shell, file = CliRunner(), tmp_path / "dead.jsonl"
    exported = shell.invoke(main, ["dead", job.id, "--export", str(file)], env=env)
    assert exported.exit_code == 0, exported.output
    letters = [json.loads(line) for line in file.read_text().splitlines()]
    assert [letter["index"] for letter in letters] == DEAD
    letters[1]["row"]["id"] = 6
    file.write_text("".join(json.dumps(letter) + "\n" for letter in letters[:2]))
    replayed = shell.invoke(main, ["replay", job.id, "--edits", str(file), "--wait"], env=env)
    assert replayed.exit_code == 0, replayed.output
    assert "new results for 1 row of" in replayed.output
    assert "1 row failed again" in replayed.output
    purged = shell.invoke(main, ["dead", job.id, "--purge", "--row", "0"], env=env)
    assert "deleted 1 dead letter" in purged.output
    assert [letter.index for letter in job.dead_letters()] == DEAD[2:]
