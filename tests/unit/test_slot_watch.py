"""The board of a slot, what the supervisor concludes from it, and attempts that run alone."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from batchmill.processes.parent_death import die_with_parent
from batchmill_worker.runtime.exclusion import Exclusion
from batchmill_worker.runtime.hooks import HookGuard, HookLimits, calls_for
from batchmill_worker.runtime.slot_board import NEVER, BoardState, Hook, HookCall, Pulse, SlotBoard, read_board
from batchmill_worker.supervisor.slot_watch import CONFIRMATION_S, SlotWatch, judge
from support.waiting import GRACE_S

if TYPE_CHECKING:
    from pathlib import Path

ATTEMPT = "job-1|0|17.0.1|3"
NOW = 10_000.0
WELL = BoardState(1, NOW, NOW, NOW)


def call(hook: Hook, ago_s: float, attempt: str = ATTEMPT) -> HookCall:
    return HookCall(hook, attempt, NOW - ago_s, 600.0)


def test_a_supervisor_reads_what_a_process_claims_and_calls(tmp_path: Path) -> None:
    board = SlotBoard(tmp_path / "board")
    guard = HookGuard(board, HookLimits(batch_s=7.0, setup_s=90.0))
    with board.claiming(ATTEMPT), calls_for(ATTEMPT), guard.calling(Hook.SETUP), guard.calling(Hook.TEARDOWN):
        board.mark(Pulse.CONSUMER)
        state = read_board(tmp_path / "board", os.getpid())
        assert state is not None
        assert state.claims == (ATTEMPT,)
        found = {(one.hook, one.attempt, one.limit_s) for one in state.calls}
        assert found == {(Hook.SETUP, ATTEMPT, 90.0), (Hook.TEARDOWN, "", 7.0)}
        assert (state.heartbeat_at, state.consumer_at < NEVER) == (NEVER, True)
    after = read_board(tmp_path / "board", os.getpid())
    assert after is not None
    assert (after.claims, after.calls) == ((), ())


def test_an_entry_that_is_just_being_written_and_a_board_of_another_process_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "board"
    board = SlotBoard(path)
    with board.claiming(ATTEMPT):
        torn = path.read_bytes().replace(b"17.0.1", b"18.0.1")
        (tmp_path / "torn").write_bytes(torn)
        state = read_board(tmp_path / "torn", os.getpid())
        assert state is not None
        assert state.claims == ()
        assert read_board(path, os.getpid() + 1) is None
    assert read_board(tmp_path / "none", 1) is None


def test_a_mark_is_never_read_half_written(tmp_path: Path) -> None:
    """Zero for a moment would be a process that has done nothing for hours."""
    path = tmp_path / "board"
    script = "import sys\nfrom pathlib import Path\nfrom batchmill_worker.runtime.slot_board import Pulse, SlotBoard\n"
    script += "board = SlotBoard(Path(sys.argv[1]))\nprint(flush=True)\nwhile True:\n    board.mark(Pulse.CALL)\n"
    began_at = time.monotonic()
    with subprocess.Popen(die_with_parent([sys.executable, "-c", script, str(path)]), stdout=subprocess.PIPE) as writer:
        try:
            assert writer.stdout is not None
            assert writer.stdout.readline()
            for _ in range(2000):
                state = read_board(path, writer.pid)
                assert state is not None
                assert state.called_at > began_at
        finally:
            writer.kill()


@pytest.mark.parametrize(
    ("board", "reason", "blamed", "is_dead"),
    [
        (WELL, None, (), False),
        (replace(WELL, heartbeat_at=NEVER, consumer_at=NEVER), None, (), False),  # it starts
        (replace(WELL, calls=(call(Hook.INFER, 599),)), None, (), False),
        (replace(WELL, calls=(call(Hook.INFER, 601),)), "infer did not end within 600 s", (ATTEMPT,), True),
        (replace(WELL, calls=(call(Hook.SETUP, 601),)), "BATCHMILL_SETUP_TIMEOUT_S", (ATTEMPT,), True),
        (replace(WELL, calls=(call(Hook.TEARDOWN, 601, ""),)), "teardown did not end", (), True),
        # code that holds the interpreter's lock: neither thread runs, and the hook's limit decides
        (replace(WELL, heartbeat_at=NOW - 500, consumer_at=NOW - 500, calls=(call(Hook.INFER, 500),)), None, (), False),
        (replace(WELL, heartbeat_at=NOW - 61), "its heartbeat has ended", (), False),
        (replace(WELL, consumer_at=NOW - 61), "takes no messages any more", (), False),
        (replace(WELL, heartbeat_at=NOW - 61, consumer_at=NEVER), None, (), False),  # it waits for the broker
        (replace(WELL, heartbeat_at=NOW - 601, consumer_at=NOW - 601), "no thread has run", (), True),
        (replace(WELL, claims=(ATTEMPT,), called_at=NOW - 601), "have made no call", (ATTEMPT,), True),
    ],
)
def test_a_process_is_replaced_for_what_its_board_shows(
    board: BoardState, reason: str | None, blamed: tuple[str, ...], *, is_dead: bool
) -> None:
    verdict = judge(board, NOW, timeout_s=600.0)
    if reason is None:
        assert verdict is None
        return
    assert verdict is not None
    assert reason in verdict.reason
    assert (verdict.blamed, verdict.is_dead) == (frozenset(blamed), is_dead)


def test_a_suspect_waits_for_those_that_run_and_those_that_come_later_wait_for_it() -> None:
    exclusion, order = Exclusion(), list[str]()
    first_may_end, suspect_may_end = threading.Event(), threading.Event()
    inside = {name: threading.Event() for name in ("first", "suspect", "last")}

    def enter(name: str, may_end: threading.Event, *, alone: bool) -> threading.Thread:
        def run() -> None:
            with exclusion.entered(alone=alone):
                order.append(f"{name} in")
                inside[name].set()
                assert may_end.wait(GRACE_S)
                order.append(f"{name} out")

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    threads = [enter("first", first_may_end, alone=False)]
    assert inside["first"].wait(GRACE_S)
    threads.append(enter("suspect", suspect_may_end, alone=True))
    first_may_end.set()
    assert inside["suspect"].wait(GRACE_S)
    threads.append(enter("last", first_may_end, alone=False))
    suspect_may_end.set()
    for thread in threads:
        thread.join(GRACE_S)
    assert order == ["first in", "first out", "suspect in", "suspect out", "last in", "last out"]


def test_a_thread_that_only_wakes_later_than_the_other_is_left_alone_and_one_that_has_ended_is_not() -> None:
    watch, board = SlotWatch(timeout_s=600.0), replace(WELL, consumer_at=NOW - 90)
    assert watch.judge(board, NOW) is None
    assert watch.judge(WELL, NOW + 1) is None
    assert watch.judge(board, NOW + CONFIRMATION_S) is None
    assert watch.judge(board, NOW + 2 * CONFIRMATION_S) is not None
