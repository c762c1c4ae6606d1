"""The queues of the models that a process has loaded: what is consumed, and what is announced when."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from batchmill.broker import model_queue_of
from batchmill_worker.models.operator_cache import LoadedModels
from batchmill_worker.slot.model_queues import SETTLE_S, ModelQueues
from support.hand_clock import HandClock

if TYPE_CHECKING:
    from collections.abc import Callable


class Slot:
    """A process with a consumer that has timers, and time that is set by hand."""

    def __init__(self) -> None:
        self.consumed: set[str] = set()
        self.announced: list[tuple[list[str], list[str]]] = []
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

    def _show(self, models: list[str], loading: list[str], **_: object) -> None:
        if self.announced[-1:] != [(models, loading)]:
            self.announced.append((models, loading))


class _Queues(dict[str, object]):
    def add(self, queue: Any) -> None:
        self[queue.name] = queue


def loaded(*names: str) -> LoadedModels:
    return LoadedModels(names, (), has_room=True, load_s=1.0)


def test_a_model_is_announced_when_its_queue_has_settled() -> None:
    slot = Slot()
    slot.queues.follow(loaded("a"))
    assert model_queue_of("default", "a") in slot.consumed
    slot.pass_time(SETTLE_S + 0.1)
    assert slot.announced == [([], []), ([], ["a"]), (["a"], [])]
    slot.queues.follow(loaded())
    assert model_queue_of("default", "a") not in slot.consumed


def test_models_that_take_turns_are_announced_once() -> None:
    """Each announcement has the leader read the fleet."""
    slot = Slot()
    slot.queues.follow(loaded("a", "b"))
    slot.pass_time(SETTLE_S + 0.1)
    before = len(slot.announced)
    for names in (("b", "a"), ("a", "b"), ("b", "a")):
        slot.queues.follow(loaded(*names))
    assert slot.announced[before:] == []
    assert slot.announced[-1] == (["a", "b"], [])
