"""How long a child that died stays down."""

from __future__ import annotations

import random
import re
import sys
from typing import TYPE_CHECKING

import pytest

from batchmill.backoff import Backoff
from batchmill.processes.children import ChildEnd, ChildSpec, ProcessSupervisor

if TYPE_CHECKING:
    from pathlib import Path


class Longest(random.Random):
    """Draws the longest wait each time."""

    def uniform(self, a: float, b: float) -> float:
        return max(a, b)


@pytest.mark.parametrize(("of_its_work", "delays"), [(True, ["0.1"] * 3), (False, ["0.1", "0.2", "0.4"])])
def test_a_child_waits_longer_after_each_death_but_those_of_its_work(
    of_its_work: bool,
    delays: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("batchmill.processes.children.RESTART", Backoff(base_s=0.1, max_s=0.4))
    pids: list[int] = []

    def on_end(end: ChildEnd) -> bool:
        pids.append(end.pid)
        if len(pids) == len(delays):
            keeper.ask_to_stop()
        return of_its_work

    keeper = ProcessSupervisor(on_end=on_end, rng=Longest())
    keeper.start(ChildSpec("short", [sys.executable, "-c", "pass"], {}, tmp_path / "log"))
    keeper.watch()
    keeper.stop(grace_s=5)
    assert len(set(pids)) == len(delays)
    assert re.findall(r"short ended with exit code 0; it is started again in (\S+) s", caplog.text) == delays
