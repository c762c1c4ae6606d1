"""Waits for rows of streams, where the machine gives no thread."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING
from unittest.mock import create_autospec

from batchmill.sources.base import EndlessSource, Splitter
from batchmill_coordinator.roles.streams.stream_waits import StreamWaits

if TYPE_CHECKING:
    import pytest


def test_a_stage_whose_wait_cannot_begin_stays_among_those_that_are_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    splitter = create_autospec(Splitter, instance=True, holds_for_s=None)
    waits = StreamWaits(lambda: None)

    waits.begin(("job_1", 0), create_autospec(EndlessSource, instance=True), splitter, "")

    assert waits.keys() == set()
