"""The rows of all shards that one engine of a process answers: they enter and leave one by one.

1. Each shard offers rows that are rendered, from its own thread. They wait together.
2. One thread drives the engine while there are any: it puts waiting rows into free places, steps, and delivers what
   has ended to the shard that it belongs to. It holds the device as long as something is in flight.
3. A row is charged from its entry to its end, so the shards in flight divide the time of the device.
4. If a batch of another operator waits for the device, no row enters after `MAX_TURN_S`; the device is released when
   those in flight have ended, and rows enter again when it is this engine's turn.
5. Progress is shown on the slot's board token by token: an engine that hangs is found by the supervisor. A row that
   gets no token for `stall_s` while others do is ended.
6. Rows of urgent shards, which are those of the lane, enter before all others. While there is such traffic, other rows
   leave `RESERVED` places free, and no urgent row waits for the device to be given to another operator.
7. Urgent rows of a tenant that shares the service leave places for those of others; see `tenant_places`.

Rejected: batches of rows that start together. Answers differ in length, so most places of a batch are idle at its end.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from batchmill.operators.row_errors import Stalled
from batchmill_worker.generation.base import BegunAnswer
from batchmill_worker.generation.placement import Placement
from batchmill_worker.generation.shared_placement import SharedPlacement
from batchmill_worker.runtime.device import Turn
from batchmill_worker.runtime.slot_board import Pulse
from batchmill_worker.runtime.tenant_places import may_enter

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchmill.clock import Clock
    from batchmill_worker.generation.base import Answer, Delta, EngineLimits, Generation, TextEngine
    from batchmill_worker.runtime.device import DeviceLock
    from batchmill_worker.runtime.device_time import AttemptUsage, DeviceHold
    from batchmill_worker.runtime.slot_board import SlotBoard

MAX_TURN_S = 10.0
STEP_S = 0.05
MIN_KEPT_TOKENS = 16
"""Tokens of an answer that are worth keeping if it is interrupted: those of fewer are made again."""
RESERVED = 2
"""Places that are kept for urgent rows, at most a quarter of all."""

Ended: TypeAlias = "tuple[int, Generation, Answer | Exception]"
"""A row of a shard, by its index there, and its answer or error."""


class _Wasted(Exception):
    """Ends the hold of a row without an answer, so that its time is counted as wasted."""


@dataclass(eq=False)
class FlowShard:
    """One shard in the flow: what has ended of it, for the thread that runs it.

    on_text: called with each new piece of text of a row, by the thread that drives the engine.
    tenant: whose rows leave places for others; None: they need not.
    begun: the answers that were interrupted when the shard left, by the index of their row.
    begun_tokens: how many tokens were made for answers that another attempt can continue.
    """

    usage: AttemptUsage
    is_urgent: bool = False
    on_text: Callable[[int, str], None] | None = None
    tenant: str | None = None
    ended: deque[Ended] = field(default_factory=deque)
    waiting: int = 0
    in_flight: int = 0
    busy_us: int = 0  # its share of the device's time so far
    error: BaseException | None = None
    begun: dict[int, BegunAnswer] = field(default_factory=dict)
    begun_tokens: int = 0


@dataclass(eq=False)
class _Ticket:
    shard: FlowShard
    index: int
    generation: Generation
    hold: DeviceHold | None = None
    holding: ExitStack = field(default_factory=ExitStack)
    place: int = -1
    progressed_at: float = 0.0
    pieces: list[str] = field(default_factory=list)  # of an answer that another attempt can continue
    tokens: int = 0  # of them


class Flow:
    """The rows of one engine. Thread-safe.

    device: held while rows are in flight, if the engine uses it. stall_s: how long a row may get no token.
    is_interactive: whether urgent rows are to be expected.
    """

    def __init__(
        self,
        engine: TextEngine,
        device: DeviceLock,
        board: SlotBoard,
        clock: Clock,
        stall_s: float,
        is_interactive: Callable[[], bool] = lambda: False,
    ) -> None:
        self._engine = engine
        self._device = device
        self._board = board
        self._clock = clock
        self._stall_s = stall_s
        self._is_interactive = is_interactive
        self._reserved = min(RESERVED, engine.limits.places // 4)
        self._turn = Turn(device, is_shared=True)
        self._turn_began_at = 0.0
        self._changed = threading.Condition()  # guards all below
        self._placement = _placement(engine.limits)
        self._in_flight: dict[int, _Ticket] = {}
        self._shards: set[FlowShard] = set()
        self._withdrawn: list[_Ticket] = []
        self._thread: threading.Thread | None = None

    def enter(
        self,
        usage: AttemptUsage,
        *,
        is_urgent: bool = False,
        on_text: Callable[[int, str], None] | None = None,
        tenant: str | None = None,
    ) -> FlowShard:
        """Add a shard; see `FlowShard`. The caller removes it by `leave`."""
        shard = FlowShard(usage, is_urgent, on_text, tenant)
        with self._changed:
            self._shards.add(shard)
            if self._thread is None:
                self._thread = threading.Thread(target=self._drive, name="flow", daemon=True)
                self._thread.start()
        return shard

    def offer(self, shard: FlowShard, index: int, generation: Generation) -> None:
        """Let a row wait for a place."""
        with self._changed:
            shard.waiting += 1
            ticket = _Ticket(shard, index, generation)
            ticket.pieces.append(generation.begun_text)
            ticket.tokens = len(generation.begun_tokens)
            tokens, limit = generation.prompt.tokens, generation.sampling.max_tokens
            self._placement.add(ticket, tokens, limit, is_urgent=shard.is_urgent)
            self._changed.notify_all()

    def wait(self, shard: FlowShard, timeout_s: float) -> None:
        """Wait until a row of this shard has ended, or the engine has failed. Raises what the engine has raised."""
        with self._changed:
            self._changed.wait_for(lambda: shard.ended or shard.error is not None, timeout_s)
            if shard.error is not None:
                raise shard.error

    def begun(self, shard: FlowShard) -> dict[int, BegunAnswer]:
        """Return the answers of a shard that another attempt can continue, as far as they are."""
        with self._changed:
            return shard.begun | self._begun_in_flight(shard)

    def _begun_in_flight(self, shard: FlowShard) -> dict[int, BegunAnswer]:
        model = self._engine.digest
        return {
            ticket.index: BegunAnswer("".join(ticket.pieces), ticket.tokens, model)
            for ticket in self._in_flight.values()
            if ticket.shard is shard and ticket.generation.may_continue and ticket.tokens >= MIN_KEPT_TOKENS
        }

    def leave(self, shard: FlowShard) -> None:
        """Remove a shard, and end what is in flight of it; returns when its time is charged."""
        with self._changed:
            self._placement.remove(lambda ticket: ticket.shard is shard)
            shard.waiting = 0
            shard.begun = self._begun_in_flight(shard)
            self._withdrawn += [ticket for ticket in self._in_flight.values() if ticket.shard is shard]
            self._changed.notify_all()
            self._changed.wait_for(lambda: not shard.in_flight)
            self._shards.discard(shard)
            self._changed.notify_all()

    def _drive(self) -> None:
        """Drive the engine until no shard is left, in a thread of its own."""
        while True:
            try:
                while self._wait_for_work():
                    self._step()
                return
            except BaseException as error:  # noqa: BLE001  # whatever it is, every shard must hear of it
                self._fail(error)

    def _step(self) -> None:
        self._abort_withdrawn()
        self._admit()
        deltas = self._engine.step(STEP_S)
        if deltas or not self._engine.limits.is_local:
            self._board.mark(Pulse.CALL)
        for delta in deltas:
            self._apply(delta)
        self._end_stalled()

    def _wait_for_work(self) -> bool:
        """Wait for rows. False when no shard is left, and the thread is to end."""
        with self._changed:
            if not self._in_flight:
                self._turn.end()
            self._changed.wait_for(lambda: len(self._placement) or self._in_flight or not self._shards)
            if self._shards or self._in_flight:
                return True
            self._turn.end()
            self._thread = None
            return False

    def _admit(self) -> None:
        """Put waiting rows into free places."""
        only_urgent = False
        if self._engine.limits.is_local:
            if not self._in_flight:
                self._turn.begin(is_urgent=self._placement.urgent > 0)
                self._turn_began_at = self._clock.monotonic()
            elif self._device.waiting and self._clock.monotonic() - self._turn_began_at > MAX_TURN_S:
                only_urgent = True
        reserved = self._reserved if self._is_interactive() else 0
        with self._changed:
            capacity = self._engine.stats().capacity
            while len(self._in_flight) < capacity:
                used = {ticket.place for ticket in self._in_flight.values()}
                free = [place for place in range(self._engine.limits.places) if place not in used]
                others = sum(not ticket.shard.is_urgent for ticket in self._in_flight.values())
                is_reserved = others >= capacity - reserved
                is_shared = any(shard.tenant is not None for shard in self._shards)
                is_last = capacity - len(self._in_flight) == 1  # for a tenant that has none
                found = self._placement.next_row(
                    free,
                    is_idle=not self._in_flight,
                    only_urgent=only_urgent or is_reserved or (is_shared and is_last and bool(reserved)),
                    is_barred=self._barred(capacity) if is_shared else None,
                )
                if found is None:
                    return
                self._begin(*found)

    def _barred(self, capacity: int) -> Callable[[_Ticket], bool]:
        """Return whether a row has to leave the free places to those of other tenants."""
        free = capacity - len(self._in_flight)
        held = Counter(ticket.shard.tenant for ticket in self._in_flight.values())

        def is_barred(ticket: _Ticket) -> bool:
            tenant = ticket.shard.tenant
            return tenant is not None and not may_enter(held[tenant], free)

        return is_barred

    def _begin(self, ticket: _Ticket, place: int) -> None:
        generation = ticket.generation
        tokens = max(len(generation.prompt.tokens), 1)
        ticket.hold = ticket.holding.enter_context(ticket.shard.usage.inferring(ticket, tokens, tokens))
        ticket.place, ticket.progressed_at = place, self._clock.monotonic()
        ticket.shard.waiting -= 1
        ticket.shard.in_flight += 1
        self._in_flight[generation.number] = ticket
        self._engine.submit(generation, place)

    def _apply(self, delta: Delta) -> None:
        with self._changed:
            ticket = self._in_flight.get(delta.number)
            if ticket is None:
                return
            ticket.progressed_at = self._clock.monotonic()
            if delta.tokens:
                self._placement.begun(ticket)
            if ticket.generation.may_continue and not delta.is_end:
                ticket.pieces.append(delta.text)
                ticket.tokens += delta.tokens
                ticket.shard.begun_tokens += delta.tokens
            if delta.text and ticket.shard.on_text is not None:
                ticket.shard.on_text(ticket.index, delta.text)
            if delta.answer is not None:
                self._end(ticket, delta.answer)
            elif delta.error is not None:
                self._end(ticket, delta.error)

    def _end_stalled(self) -> None:
        if not self._engine.limits.is_local:
            return
        now = self._clock.monotonic()
        with self._changed:
            latest = max((ticket.progressed_at for ticket in self._in_flight.values()), default=now)
            for ticket in list(self._in_flight.values()):
                if latest - ticket.progressed_at > self._stall_s:
                    self._engine.abort(ticket.generation.number)
                    why = f"the engine made no token for it in {self._stall_s:g} s, and some for others"
                    self._end(ticket, Stalled(why, retryable=True))

    def _abort_withdrawn(self) -> None:
        with self._changed:
            for ticket in self._withdrawn:
                if ticket.generation.number in self._in_flight:
                    self._engine.abort(ticket.generation.number)
                    self._end(ticket, _Wasted())
            self._withdrawn.clear()

    def _end(self, ticket: _Ticket, outcome: Answer | Exception) -> None:
        """Take a row out of the engine, charge its time, and deliver it. With the lock held."""
        del self._in_flight[ticket.generation.number]
        shard = ticket.shard
        if isinstance(outcome, Exception):
            self._placement.ended(ticket)
            try:
                with ticket.holding:
                    raise _Wasted
            except _Wasted:
                pass
        else:
            self._placement.begun(ticket)
            ticket.holding.close()
        if ticket.hold is not None:
            shard.busy_us += ticket.hold.took_us
        shard.in_flight -= 1
        if not isinstance(outcome, _Wasted):
            shard.ended.append((ticket.index, ticket.generation, outcome))
        self._changed.notify_all()

    def _fail(self, error: BaseException) -> None:
        """End everything with an error of the engine."""
        with self._changed:
            for shard in self._shards:
                shard.error = error
            self._placement.remove(lambda _: True)
            for ticket in list(self._in_flight.values()):
                with suppress(Exception):  # it has failed already
                    self._engine.abort(ticket.generation.number)
                self._end(ticket, _Wasted())
            self._withdrawn.clear()


def _placement(limits: EngineLimits) -> Placement[_Ticket]:
    if limits.shares_prefixes:
        return SharedPlacement(limits.places)
    return Placement(limits.places, keeps_prefixes=limits.keeps_prefixes)
