"""Takes interactive requests for the models that are loaded, and loads models that are asked for.

1. One thread for each loaded model waits for its requests. It takes what waits, at most `MAX_TOGETHER`, and computes
   it; what comes meanwhile is the next batch. There is no timer.
2. Of an engine whose rows enter one by one, each request has a thread of its own. No more are taken than the engine has
   places, so that others wait where another worker can take them. A tenant that has its share of the places is passed
   over: its other requests wait there, too.
3. The coordinator is notified at once who has its request. If nobody receives that, nobody waits, and it is dropped.
4. One thread loads models that are asked for. A worker without memory to spare waits a moment first, so that one with
   some takes the request.
5. One thread hears which requests are not waited for any more.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from batchmill.errors import BatchmillError, ServiceUnavailable, UnknownOperator
from batchmill.processes.guarded_thread import GuardedThread
from batchmill_worker.runtime.device_time import TimeUse
from batchmill_worker.runtime.tenant_places import may_enter
from batchmill_worker.slot.lane.answering import is_flow
from batchmill_worker.slot.lane.charges import LaneCharges
from batchmill_worker.slot.lane.outbox import Outbox, Ticket

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batchmill.ledger.formats.lane_messages import LaneRequest, LoadRequest
    from batchmill.ledger.lane import LaneLedger
    from batchmill.operators.contract import OperatorDefinition
    from batchmill.operators.registration import OperatorRegistry
    from batchmill_worker.models.operator_cache import LoadedModels, OperatorCache
    from batchmill_worker.models.ready_operator import ReadyOperator
    from batchmill_worker.runtime.device_time import DeviceTimeMeter
    from batchmill_worker.runtime.lane_traffic import LaneTraffic
    from batchmill_worker.slot.lane.answering import LaneAnswers

log = logging.getLogger(__name__)

MAX_TOGETHER = 32
PAST_INTERVAL_S = 0.05  # between two looks for requests of other tenants than those that are passed over
WAIT_S = 0.5  # for a request, until it is looked whether the model is still loaded
AWAY_S = 1.0  # until a ledger that is away is asked again
DRAIN_S = 5.0


class LanePlace(NamedTuple):
    """Which worker of which pool takes requests from the lane. price_nano: of an hour of it, in billionths."""

    lane: LaneLedger
    worker: str
    pool: str
    price_nano: int


class LaneConsumer:
    """The lane of one process. operators: what is loaded; `follow` hears of its changes."""

    def __init__(
        self,
        place: LanePlace,
        registry: OperatorRegistry,
        operators: OperatorCache,
        answers: LaneAnswers,
        meter: DeviceTimeMeter,
        traffic: LaneTraffic,
    ) -> None:
        self._lane, self._worker, self._pool, _ = place
        self._registry = registry
        self._operators = operators
        self._answers = answers
        self._outbox = Outbox(place.lane)
        self._meter = meter
        self._charges = LaneCharges(place.lane, place.pool, place.price_nano)
        self._traffic = traffic
        self._stopping = threading.Event()
        self._changed = threading.Condition()  # guards all below
        self._ready: frozenset[str] = frozenset()
        self._has_room = True
        self._serving: set[str] = set()  # models that have a thread
        self._tickets: dict[str, Ticket] = {}  # in hand, by the key of the request
        self._in_flow: Counter[str] = Counter()  # of them those in an engine, by model
        self._held: dict[str, Counter[str]] = {}  # of those, by tenant, if they leave places
        self._flow_places: dict[str, int] = {}  # that an engine has, by model
        self._threads = [
            GuardedThread("lane loads", self._load_models),
            GuardedThread("lane aborts", self._hear_aborts),
        ]

    def start(self) -> None:
        """Begin to take requests."""
        self._outbox.start()
        self._charges.start()
        for thread in self._threads:
            thread.start()

    def drain(self) -> None:
        """Take no more requests; those in hand are answered."""
        self._stopping.set()

    def stop(self) -> None:
        """End, once what is in hand is answered, but within `DRAIN_S`."""
        self.drain()
        with self._changed:
            self._changed.wait_for(lambda: not self._tickets and not self._serving, DRAIN_S)
        for thread in self._threads:
            thread.join()
        self._charges.stop()
        self._outbox.stop()

    def follow(self, models: LoadedModels) -> None:
        """Note that the loaded models have changed. Safe in any thread."""
        with self._changed:
            self._ready, self._has_room = frozenset(models.ready), models.has_room
            new = self._ready - self._serving
            self._serving |= new
        for model in new:
            threading.Thread(target=self._serve, args=(model,), name=f"lane {model}", daemon=True).start()

    def _serve(self, model: str) -> None:
        """Answer the requests for a model while it is loaded."""
        while self._is_served(model):
            try:
                self._answer_waiting(model)
            except ServiceUnavailable as error:
                log.warning("no requests of the lane can be taken: %s", error)
                self._stopping.wait(AWAY_S)
            except Exception:  # one request must not end all others
                log.exception("requests of the lane could not be answered")

    def _is_served(self, model: str) -> bool:
        with self._changed:
            if model in self._ready and not self._stopping.is_set():
                return True
            self._serving.discard(model)
            self._changed.notify_all()
            return False

    def _answer_waiting(self, model: str) -> None:
        """Take what waits for a model, and answer it or hand it to its engine."""
        barred = self._barred(model)
        if barred:
            past = self._lane.take_past(self._pool, model, barred)
            found = [] if past is None else [past]
        else:
            found = self._lane.take(self._pool, model, 1, WAIT_S)
        if not found:
            if barred:
                self._stopping.wait(PAST_INTERVAL_S)
            return
        definition = self._registry.get(found[0].operator)
        if definition is not None and not is_flow(definition):
            found += self._lane.take_more(self._pool, model, MAX_TOGETHER - 1)
        self._traffic.mark()
        with self._holding(found) as tickets:
            if definition is None:
                for ticket in tickets:
                    ticket.failed(UnknownOperator(f"this worker has no operator {found[0].operator!r}."))
            elif is_flow(definition):
                self._begin_generation(model, definition, tickets)
            else:
                self._answer(definition, tickets)

    @contextmanager
    def _holding(self, requests: Sequence[LaneRequest]) -> Iterator[list[Ticket]]:
        """Hold requests while the context lasts; those that nobody waits for are left out."""
        taken = [Ticket(request, self._outbox) for request in requests]
        with self._changed:  # before the note: whoever receives that may have them dropped at once
            self._tickets |= {ticket.request.key: ticket for ticket in taken}
        try:
            yield [one for one in self._outbox.note_taken(taken, self._worker) if not one.is_aborted]
        finally:
            self._release([ticket for ticket in taken if not ticket.is_handed_on])

    def _release(self, tickets: Sequence[Ticket]) -> None:
        with self._changed:
            for ticket in tickets:
                self._tickets.pop(ticket.request.key, None)
            self._changed.notify_all()

    def _answer(self, definition: OperatorDefinition, tickets: Sequence[Ticket]) -> None:
        if not tickets:
            return
        usage = self._meter.open(TimeUse.INTERACTIVE)
        try:
            with self._operators.borrow(definition, tickets[0].request.params, usage.loading) as operator:
                self._answers.answer(operator, tickets, usage)
        except BatchmillError as error:
            for ticket in tickets:
                ticket.failed(error)
        finally:
            self._charges.add(definition.name, [ticket.request for ticket in tickets], usage.close())

    def _begin_generation(self, model: str, definition: OperatorDefinition, tickets: Sequence[Ticket]) -> None:
        """Hand each request to a thread of its own, and wait until the engine has a place for another one."""
        for ticket in tickets:
            ticket.is_handed_on = True
            with self._changed:
                self._count(model, ticket, 1)
            threading.Thread(target=self._generate, args=(model, definition, ticket), daemon=True).start()
        with self._changed:
            self._changed.wait_for(lambda: self._in_flow[model] < self._places(model) or self._stopping.is_set())

    def _count(self, model: str, ticket: Ticket, change: int) -> None:
        self._in_flow[model] += change
        if ticket.request.leaves_places:
            self._held.setdefault(model, Counter())[ticket.request.tenant] += change

    def _barred(self, model: str) -> list[str]:
        """Return the tenants that have to leave the free places of a model's engine to others."""
        with self._changed:
            free = self._places(model) - self._in_flow[model]
            held = self._held.get(model, Counter())
            return [tenant for tenant, count in held.items() if count and not may_enter(count, free)]

    def _places(self, model: str) -> int:
        return self._flow_places.get(model, 1)

    def _generate(self, model: str, definition: OperatorDefinition, ticket: Ticket) -> None:
        usage = self._meter.open(TimeUse.INTERACTIVE)
        try:
            with self._operators.borrow(definition, ticket.request.params, usage.loading) as operator:
                self._note_places(model, operator)
                self._answers.generate(operator, ticket, usage)
        except BatchmillError as error:
            ticket.failed(error)
        finally:
            self._charges.add(definition.name, [ticket.request], usage.close())
            with self._changed:
                self._count(model, ticket, -1)
            self._release([ticket])

    def _note_places(self, model: str, operator: ReadyOperator) -> None:
        with self._changed:
            self._flow_places[model] = operator.requests.engine.limits.places
            self._changed.notify_all()

    def _load_models(self) -> None:
        while not self._stopping.is_set():
            if not self._has_room and self._stopping.wait(WAIT_S):
                return
            try:
                found = self._lane.take_load(self._pool, WAIT_S)
                if found is not None:
                    self._lane.loaded(self._pool, found.model, self._load(found))
            except ServiceUnavailable as error:
                log.warning("no model can be loaded for the lane: %s", error)
                self._stopping.wait(AWAY_S)

    def _load(self, request: LoadRequest) -> dict[str, object] | None:
        """Load a model; return the envelope of an error, or None."""
        definition = self._registry.get(request.operator)
        if definition is None:
            return UnknownOperator(
                f"the workers of pool {self._pool!r} have no operator {request.operator!r}."
            ).envelope()
        usage = self._meter.open(TimeUse.INTERACTIVE)
        try:
            with self._operators.borrow(definition, request.params, usage.loading):
                log.info("loaded operator %r for the lane", request.operator)
            return None
        except BatchmillError as error:
            log.warning("operator %r could not be loaded for the lane: %s", request.operator, error)
            return error.envelope()
        finally:
            self._charges.add_load(definition.name, request.tenant, usage.close())

    def _hear_aborts(self) -> None:
        while not self._stopping.is_set():
            try:
                self._follow_aborts()
            except ServiceUnavailable as error:
                log.warning("aborted requests of the lane are not known: %s", error)
                self._stopping.wait(AWAY_S)

    def _follow_aborts(self) -> None:
        for key in self._lane.aborts(self._worker):
            ticket = self._tickets.get(key) if key else None
            if ticket is not None:
                ticket.is_aborted = True
            if self._stopping.is_set() and not self._tickets:
                return
