"""`batchmill autoscale`: which numbers it runs its command with. The commands are real processes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, cast

import pytest
from click.testing import CliRunner

from batchmill.cli.fleet.scaling import Autoscaler, autoscale
from batchmill.errors import ServiceUnavailable
from batchmill.fleet import PoolScale

if TYPE_CHECKING:
    from pathlib import Path

WRITE = "import sys; open(sys.argv[1], 'a').write(sys.argv[2] + ' '); sys.exit(int(sys.argv[2]) == 5)"


class Service:
    """Says what a test sets; None: it does not answer."""

    workers: int | None = 0

    def scale(self, pool: str) -> PoolScale:
        if self.workers is None:
            raise ServiceUnavailable("nobody leads.")
        return PoolScale(
            pool=pool,
            workers_wanted=self.workers,
            workers=0,
            machine_workers=2,
            machines_wanted=-(-self.workers // 2),
            start_s=100,
            target_s=300,
            why="a test",
        )


def numbers(tmp_path: Path, wanted: list[tuple[float, int | None]], *, slots: int | None = None) -> list[int]:
    """Run the command for what the service says at each time; return its numbers."""
    service, log = Service(), tmp_path / "log"
    command = [sys.executable, "-c", WRITE, str(log), "{n}"]
    scaler = Autoscaler(cast("Any", service), "gpu", 1, 8, command, slots)
    for now_s, workers in wanted:
        service.workers = workers
        scaler.step(now_s)
    return list(map(int, log.read_text().split()))


def test_the_command_runs_at_the_beginning_and_when_the_number_changes_within_its_bounds(tmp_path: Path) -> None:
    assert numbers(tmp_path, [(0, 0), (10, 6), (20, 6), (30, 90)]) == [1, 3, 8]


def test_a_number_falls_only_when_the_larger_one_is_older_than_a_start(tmp_path: Path) -> None:
    assert numbers(tmp_path, [(0, 8), (50, 2), (99, 4), (150, 2), (250, 0)]) == [4, 2, 1]


def test_nothing_changes_while_the_service_does_not_answer(tmp_path: Path) -> None:
    assert numbers(tmp_path, [(0, 8), (500, None), (600, None), (700, 8)]) == [4]


def test_a_command_that_fails_is_run_again(tmp_path: Path) -> None:
    assert numbers(tmp_path, [(0, 10), (15, 10), (30, 12)]) == [5, 5, 6]


def test_workers_of_a_machine_may_be_given(tmp_path: Path) -> None:
    assert numbers(tmp_path, [(0, 6)], slots=4) == [2]


@pytest.mark.parametrize(("command", "reason"), [("scale 3", "{n}"), ("{n}", "{n}"), ("scale '{n}", "no command")])
def test_a_command_without_a_place_for_the_number_is_refused(command: str, reason: str) -> None:
    result = CliRunner().invoke(autoscale, ["--max", "3", "--exec", command])
    assert result.exit_code == 2
    assert reason in result.output
