"""The states that a process has in memory: those of stages whose shards it runs, until another process runs one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from batchmill.clock import SystemClock
from batchmill.jobs.shard import ShardId, ShardRef
from batchmill.jobs.stateful.step import StateStep, state_key
from batchmill.storage.blobs import BlobStore
from batchmill.storage.locations import UNRESTRICTED, Locations
from batchmill_worker.engine.executor import ShardTask
from batchmill_worker.engine.state_executor import StateExecutor
from batchmill_worker.models.held_states import MAX_STATES, HeldStates
from batchmill_worker.models.ready_operator import ReadyOperator
from batchmill_worker.slot.loading import load_operators

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

KEY = state_key("job", 1)


class Process:
    """A process that runs shards of a stage with windows."""

    def __init__(self, blobs: BlobStore) -> None:
        definition = load_operators().get("window")
        assert definition is not None
        self.held: Collection[str] = ()
        self._operator = ReadyOperator(definition, definition.build({"count": 3}))
        self._executor = StateExecutor(blobs, SystemClock(), held=HeldStates(self._note))

    def run(self, number: int, *, is_last: bool = False) -> None:
        step = StateStep(f"{number - 1}-a1" if number else "", is_last=is_last)
        table = pa.table({"n": [1, None]})  # a row, and the end of the shard
        self._executor.run(self._operator, table, ShardTask(ref=ShardRef("job", 1, ShardId((number,)), 1), step=step))

    def _note(self, held: Collection[str]) -> None:
        self.held = held


def two_processes(folder: Path) -> tuple[Process, Process]:
    blobs = BlobStore.open(str(folder), Locations(UNRESTRICTED))
    return Process(blobs), Process(blobs)


def test_a_state_is_held_by_the_process_that_continues_from_its_memory(tmp_path: Path) -> None:
    one, other = two_processes(tmp_path)
    one.run(0)
    one.run(1)
    other.run(2)  # it had to read the state
    assert (list(one.held), list(other.held)) == ([KEY], [])
    other.run(3)
    one.run(4)  # what it has in memory is old
    assert (list(one.held), list(other.held)) == ([], [KEY])


def test_a_state_is_not_held_once_its_stage_is_over(tmp_path: Path) -> None:
    one, _ = two_processes(tmp_path)
    one.run(0)
    one.run(1, is_last=True)
    assert list(one.held) == []


def test_the_states_used_longest_ago_are_not_held_when_there_are_many() -> None:
    told: list[Collection[str]] = []
    states = HeldStates(told.append)
    for number in range(MAX_STATES + 1):
        states.note(str(number), is_held=True)
    states.note("1", is_held=True)  # no change
    states.note("unknown", is_held=False)
    assert told[-1] == tuple(str(number) for number in range(1, MAX_STATES + 1))
    assert len(told) == MAX_STATES + 1
