"""The verdict of a chaos run on streams: it holds for what was sent, and for nothing else."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from chaos.stream_users import WINDOW, StreamUsers
from chaos.verdict import Verdict
from chaos.workload import Loss

if TYPE_CHECKING:
    from collections.abc import Sequence

SENT = list(range(15))  # three requests, accepted at 1, 2 and 3 s


def in_windows(rows: Sequence[int]) -> list[list[int]]:
    return [list(rows[first : first + WINDOW]) for first in range(0, len(rows), WINDOW)]


class _Job:
    """What a client gives for a job."""

    def __init__(self, results: list[dict[str, Any]]) -> None:
        self._results = results

    def results(self) -> list[dict[str, Any]]:
        return self._results

    def status(self) -> Any:
        return SimpleNamespace(state=SimpleNamespace(value="completed"), rows_dead=0, stream=None)


def verdict_on(rows: list[int], windows: list[list[int]], losses: Sequence[Loss] = ()) -> Verdict:
    jobs = {"plain": _Job([{"id": row} for row in rows]), "windows": _Job([{"ids": one} for one in windows])}
    client = SimpleNamespace(job=jobs.__getitem__)
    cluster: Any = SimpleNamespace(ask=lambda do: do(client))
    users = StreamUsers(cluster, list(losses), sent_at=[1.0, 2.0, 3.0], _plain="plain", _windows="windows")
    verdict = Verdict()
    users.judge(verdict)
    return verdict


def test_rows_that_are_there_once_and_their_windows_hold() -> None:
    verdict = verdict_on(SENT, in_windows(SENT))
    assert verdict.holds
    assert verdict.rows == 15


@pytest.mark.parametrize(
    ("rows", "windows"),
    [
        (SENT[:-1], in_windows(SENT[:-1])),  # lost
        ([*SENT, 14], in_windows([*SENT, 14])),  # doubled
        ([*SENT, 15], in_windows([*SENT, 15])),  # never sent
        ([1, 0, *SENT[2:]], in_windows([1, 0, *SENT[2:]])),  # in another order
        (SENT, in_windows(SENT)[:-1]),
        (SENT, [*in_windows(SENT), SENT[14:]]),  # fired twice
        (SENT, in_windows([1, 0, *SENT[2:]])),
    ],
)
def test_anything_else_does_not_hold(rows: list[int], windows: list[list[int]]) -> None:
    assert not verdict_on(rows, windows).holds


def test_rows_that_were_accepted_while_the_ledger_lost_its_changes_may_be_gone() -> None:
    left = SENT[:5] + SENT[10:]
    assert verdict_on(left, in_windows(left), [Loss(1.5, 1.8)]).holds
    assert not verdict_on(left, in_windows(left), [Loss(3.5, 4.0)]).holds
