"""How `batchmill logs` shows the entries of a log."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from batchmill.cli.logs import _show
from batchmill.jobs.job_log import LogEntry, LogEvent, LogLevel

if TYPE_CHECKING:
    import pytest


def entry(number: int, level: LogLevel, event: LogEvent, message: str) -> LogEntry:
    return LogEntry(
        id=f"{number}-0", at=number, level=level, event=event, message=message, shard=str(number), attempt=1
    )


ENTRIES = [
    entry(0, LogLevel.INFO, LogEvent.STARTED, "it began"),
    *(entry(n, LogLevel.ERROR, LogEvent.FAILED, "no such model") for n in range(1, 16)),
    entry(16, LogLevel.ERROR, LogEvent.FAILED, "another error"),
    *(entry(n, LogLevel.ERROR, LogEvent.FAILED, "no such model") for n in (17, 18)),
]


def test_an_error_that_repeats_is_shown_once_with_the_number_of_further_attempts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _show([ENTRIES], verbose=False, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    shown = [line.rpartition(": ")[2].strip() for line in lines]
    assert shown == [
        "it began",
        "no such model",
        "14 more attempts, same error",
        "another error",
        "no such model",
        "1 more attempt, same error",
    ]
    assert "shard 1," in lines[1]


def test_programs_get_every_entry(capsys: pytest.CaptureFixture[str]) -> None:
    _show([ENTRIES], verbose=False, as_json=True)
    shown = [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()]
    assert shown == [one.id for one in ENTRIES]
