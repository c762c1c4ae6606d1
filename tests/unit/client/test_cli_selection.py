"""Jobs named on the command line by id, beginning of an id, name or `last`; lists that are filtered; several jobs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.testing import Result

    from batchmill import Client
    from support.live_service import LiveService

ROWS = [{"id": number} for number in range(3)]


@pytest.fixture
def two(service: LiveService, client: Client) -> list[str]:
    """The ids of two jobs, `first` and `second`, that do not end by themselves."""
    service.holds_jobs = True
    return [client.submit("echo", rows=ROWS, name=name).id for name in ("first", "second")]


def shown(done: Result) -> Any:
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)["id"]


def test_a_job_is_found_by_id_beginning_of_its_id_name_and_last(run: Callable[..., Result], two: list[str]) -> None:
    first, second = two
    shared = next(place for place in range(len(first)) if first[place] != second[place])

    assert shown(run("status", first, "--json")) == first
    assert shown(run("status", first[: shared + 1], "--json")) == first
    assert shown(run("status", "first", "--json")) == first
    assert shown(run("status", "last", "--json")) == second


def test_a_name_of_several_jobs_or_of_none_is_refused_with_what_there_is(
    run: Callable[..., Result], client: Client, two: list[str]
) -> None:
    again = client.submit("echo", rows=ROWS, name="first").id

    several, none = run("cancel", "first"), run("status", "third")

    assert (several.exit_code, none.exit_code) == (2, 2)
    assert two[0] in several.stderr
    assert again in several.stderr
    assert "no job with the id or name 'third'" in none.stderr


def test_several_jobs_are_cancelled_and_deleted_by_one_command(
    run: Callable[..., Result], service: LiveService, two: list[str]
) -> None:
    assert run("cancel", "first", "second").exit_code == 0
    for job_id in two:
        service.ended(job_id)
    assert run("delete", *two).stdout == "".join(f"{job_id} deleted\n" for job_id in two)
    assert run("jobs", "--json").stdout == ""


def test_one_job_that_does_not_exist_leaves_the_others_alone(run: Callable[..., Result], two: list[str]) -> None:
    assert run("cancel", "first", "nothing").exit_code == 2
    assert {json.loads(line)["state"] for line in run("jobs", "--json").stdout.splitlines()} <= {"pending", "running"}
    assert two


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["--name", "fir*"], ["first"]),
        (["--operator", "echo"], ["second", "first"]),
        (["--operator", "embed"], []),
        (["--state", "completed"], []),
        (["--state", "pending", "--state", "running", "--limit", "1"], ["second"]),
        (["--tenant", "default"], ["second", "first"]),
        (["--tenant", "acme"], []),
    ],
)
def test_a_list_of_jobs_is_filtered(
    run: Callable[..., Result], two: list[str], options: list[str], names: list[str]
) -> None:
    assert two
    done = run("jobs", "--json", *options)
    assert [json.loads(line)["name"] for line in done.stdout.splitlines()] == names


def test_a_state_that_does_not_exist_is_refused_with_the_nearest_one(run: Callable[..., Result]) -> None:
    done = run("jobs", "--state", "complete")
    assert (done.exit_code, "completed" in done.stderr) == (2, True)


def test_control_characters_in_a_name_are_escaped_and_forge_no_line(
    run: Callable[..., Result], service: LiveService, client: Client
) -> None:
    service.holds_jobs = True
    job_id = client.submit("echo", rows=ROWS, name="a\tb\n\x1b]0;title\x07c").id

    for command in (("jobs",), ("status", job_id), ("top",)):
        written = run(*command).stdout
        assert r"a\tb\n\x1b]0;title\x07c" in written
        assert not {"\x1b", "\x07"} & set(written)
    header, line = run("jobs").stdout.splitlines()
    assert header.count("\t") == line.count("\t")


def test_a_blocked_job_is_shown_as_blocked_with_the_reason(
    run: Callable[..., Result], service: LiveService, two: list[str]
) -> None:
    service.change(two[0], note="no worker of pool 'gpu' is running")

    assert "blocked" in run("status", "first").stdout
    line = next(line for line in run("jobs").stdout.splitlines() if line.startswith(two[0]))
    assert line.split("\t")[1] == "blocked"
    assert line.endswith("no worker of pool 'gpu' is running")
