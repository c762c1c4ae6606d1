"""How long a child that died stays down."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

import pytest

from batchmill.processes.children import (
    BACKOFF_MAX_S,
    BACKOFF_S,
    ChildEnd,
    ChildSpec,
    ProcessSupervisor,
    restart_delay_s,
)

if TYPE_CHECKING:
    from pathlib import Path


def test_a_child_that_dies_again_and_again_is_left_alone_longer_and_longer() -> None:
    assert [restart_delay_s(deaths) for deaths in (1, 2, 3, 10_000)] == [
        BACKOFF_S,
        2 * BACKOFF_S,
        4 * BACKOFF_S,
        BACKOFF_MAX_S,
    ]


@pytest.mark.parametrize(("of_its_work", "delays"), [(True, ["0.1"] * 3), (False, ["0.1", "0.2", "0.4"])])
def test_a_child_that_dies_of_its_work_is_soon_there_again_however_often_that_happens(
    of_its_work: bool,
    delays: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("batchmill.processes.children.BACKOFF_S", 0.1)
    pids: list[int] = []

    def on_end(end: ChildEnd) -> bool:
        pids.append(end.pid)
        if len(pids) == len(delays):
            keeper.ask_to_stop()
        return of_its_work

    keeper = ProcessSupervisor(on_end=on_end)
    keeper.start(ChildSpec("short", [sys.executable, "-c", "pass"], {}, tmp_path / "log"))
    keeper.watch()
    keeper.stop(grace_s=5)
    assert len(set(pids)) == len(delays)
    assert re.findall(r"short ended with exit code 0; it is started again in (\S+) s", caplog.text) == delays
