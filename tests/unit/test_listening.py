"""Which port a coordinator gets."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from batchmill.errors import InvalidSettings
from batchmill.processes.ready_file import kept_port, write_ready_file
from batchmill_coordinator.api.server import listen

if TYPE_CHECKING:
    from pathlib import Path

HOST = "127.0.0.1"


@pytest.mark.parametrize(
    ("port", "any_port", "kept"),
    [(0, False, (8649, False)), (8642, True, (8649, False)), (8642, False, (8642, False))],
    ids=["any", "preferred", "asked for"],
)
def test_a_service_that_is_started_again_keeps_its_port_unless_one_is_asked_for(
    tmp_path: Path, port: int, any_port: bool, kept: tuple[int, bool]
) -> None:
    ready = tmp_path / "ready.json"
    assert kept_port(ready, port, any_port=any_port) == (port, any_port)
    write_ready_file(ready, "http://[::1]:8649")
    assert kept_port(ready, port, any_port=any_port) == kept


def test_of_many_that_want_one_port_at_once_each_gets_a_port_and_one_gets_that() -> None:
    with listen(HOST, 0) as probe:
        wanted = probe.getsockname()[1]
    with ThreadPoolExecutor(8) as threads, ExitStack() as opened:
        found = [
            opened.enter_context(one) for one in threads.map(lambda _: listen(HOST, wanted, any_port=True), range(8))
        ]
        ports = [one.getsockname()[1] for one in found]
    assert len(set(ports)) == 8
    assert wanted in ports


def test_a_port_that_was_asked_for_and_is_taken_is_refused() -> None:
    with listen(HOST, 0) as taken, pytest.raises(InvalidSettings, match="cannot listen on"):
        listen(HOST, taken.getsockname()[1])
