"""The queues of states that a process has in memory: consumed while it has them, and for a moment afterwards."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from batchmill.broker import model_queue_of
from batchmill_worker.slot.model_queues import LINGER_S, SETTLE_S, ModelQueues
from support.hand_clock import HandClock

if TYPE_CHECKING:
    from collections.abc import Callable

QUEUE = model_queue_of("default", "state")


class Slot:
    """A process with a consumer that has timers, and time that is set by hand."""

    def __init__(self) -> None:
        self.consumed: set[str] = set()
        self.announced: list[str] = []
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.clock = HandClock()
        board = SimpleNamespace(mark=lambda *_: None)
        heartbeat = SimpleNamespace(board=board, show_models=self._show)
        self.queues = ModelQueues("default", cast("Any", heartbeat), self.clock)
        self.consumer = SimpleNamespace(
            task_consumer=object(),
            timer=SimpleNamespace(call_after=self._call_after, call_repeatedly=lambda *_: None),
            app=SimpleNamespace(amqp=SimpleNamespace(queues=_Queues())),
            add_task_queue=self.consumed.add,
            cancel_task_queue=self.consumed.discard,
            call_soon=lambda call: call(),
        )
        self.queues.attach(self.consumer)

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and call what was to be called meanwhile."""
        ends = self.clock.monotonic() + seconds
        while due := sorted((one for one in self.timers if one[0] <= ends), key=lambda one: one[0]):
            self.timers.remove(due[0])
            self.clock.now_s = max(due[0][0], self.clock.now_s)
            due[0][1]()
        self.clock.now_s = ends

    def _call_after(self, seconds: float, call: Callable[[], None]) -> None:
        self.timers.append((self.clock.monotonic() + seconds, call))

    def _show(self, _models: list[str], _loading: list[str], states: list[str], **_: object) -> None:
        self.announced = states


class _Queues(dict[str, object]):
    def add(self, queue: Any) -> None:
        self[queue.name] = queue


def test_a_state_is_announced_when_its_queue_has_settled() -> None:
    slot = Slot()
    slot.queues.follow_states(["state"])
    assert (QUEUE in slot.consumed, slot.announced) == (True, [])
    slot.pass_time(SETTLE_S + 0.1)
    assert slot.announced == ["state"]


def test_the_queue_of_a_state_that_was_held_for_long_is_consumed_for_a_while_afterwards() -> None:
    slot = Slot()
    slot.queues.follow_states(["state"])
    slot.pass_time(10 * LINGER_S)
    slot.queues.follow_states([])
    assert (QUEUE in slot.consumed, slot.announced) == (True, [])
    slot.pass_time(LINGER_S - 0.1)
    slot.queues.sync()
    assert QUEUE in slot.consumed
    slot.pass_time(0.2)
    assert QUEUE not in slot.consumed


def test_states_that_come_and_go_leave_no_timers_behind() -> None:
    slot = Slot()
    for _ in range(100):
        slot.queues.follow_states(["b"])
        slot.pass_time(0.5)
        slot.queues.follow_states(["a"])
        slot.pass_time(0.5)
    assert len(slot.timers) < 20
    slot.queues.follow_states([])
    slot.pass_time(2 * LINGER_S)
    assert (slot.timers, slot.consumed) == ([], set())


def test_what_was_left_before_an_outage_is_not_consumed_for_ever() -> None:
    slot = Slot()
    slot.queues.follow_states(["state"])
    slot.pass_time(LINGER_S)
    slot.queues.follow_states([])
    slot.timers.clear()
    slot.queues.attach(slot.consumer)
    assert QUEUE in slot.consumed
    slot.pass_time(LINGER_S + 0.1)
    assert QUEUE not in slot.consumed
