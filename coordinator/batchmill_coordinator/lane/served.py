"""Served models on the lane: their state, and loading them in advance."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Literal

from batchmill.errors import InvalidParams, ServiceUnavailable
from batchmill.jobs.job import DEFAULT_TENANT
from batchmill.ledger.formats.lane_messages import LoadRequest
from batchmill.processes.guarded_thread import GuardedThread
from batchmill.storage.served_models import may_be_named
from batchmill_coordinator.admission.param_checks import check_params
from batchmill_coordinator.endpoints.known import served_params
from batchmill_coordinator.lane.target import LaneTarget, is_loaded

if TYPE_CHECKING:
    from batchmill.ledger import Ledger
    from batchmill.operators.contract import OperatorInfo
    from batchmill.storage.locations import Locations
    from batchmill.storage.served_models import ServedModel, ServedModels
    from batchmill_coordinator.fleet.fleet_view import FleetView

log = logging.getLogger(__name__)

INTERVAL_S = 1.0

ModelState = Literal["ready", "loading", "failed", "idle"]
"""Whether a worker has a model loaded, is loading it, or could not load it; else its first request has it loaded."""


def served_target(name: str, model: ServedModel, operator: OperatorInfo) -> LaneTarget:
    """Return the target of requests for a served model. Pure."""
    return LaneTarget.of(operator, served_params(operator, model.answers, model.params), model.pool, name)


class ServedModelLoader:
    """Knows the state of served models, and has those loaded that are to be preloaded, in a thread of its own."""

    def __init__(self, ledger: Ledger, fleet: FleetView, served: ServedModels, locations: Locations) -> None:
        self._lane = ledger.lane
        self._fleet = fleet
        self._served = served
        self._locations = locations
        self._failures: dict[str, str] = {}  # that are in the log
        self._stopping = threading.Event()
        self._thread = GuardedThread("served models", self._run)

    def start(self) -> None:
        """Begin to load models, if any is to be preloaded."""
        if any(model.preload for model in self._served.models.values()):
            self._thread.start()

    def stop(self) -> None:
        """End."""
        self._stopping.set()
        self._thread.join()

    def find(self, name: str) -> ServedModel | None:
        """Return the model that a client names, or None if it is not served and no worker may load it."""
        found = self._served.find(name)
        if found is None or name in self._served.models:
            return found
        return found if may_be_named(str(found.params["model"]), self._locations) else None

    def state(self, name: str, model: ServedModel) -> tuple[ModelState, str | None]:
        """Return the state of a model, and why if it has failed. Raises `ServiceUnavailable`."""
        operator, pool = self._fleet.operator(model.operator), self._fleet.pools().get(model.pool)
        if pool is None or not pool.members:
            return "idle", None
        if operator is None:
            return "failed", f"no worker has an operator {model.operator!r}."
        target = served_target(name, model, operator)
        if is_loaded(target, pool):
            return "ready", None
        try:
            check_params(operator, target.params)
        except InvalidParams as error:
            return "failed", str(error)
        if any(target.model in worker.loading for worker in pool.members):
            return "loading", None
        failure = self._lane.load_failure(target.pool, target.model)
        return ("idle", None) if failure is None else ("failed", str(failure["error"]["message"]))

    def _run(self) -> None:
        while not self._stopping.wait(INTERVAL_S):
            try:
                self._load_missing()
            except ServiceUnavailable as error:
                log.warning("served models cannot be loaded: %s", error)

    def _load_missing(self) -> None:
        for name, model in self._served.models.items():
            operator = self._fleet.operator(model.operator)
            state, why = self.state(name, model)
            if why is not None and self._failures.get(name) != why:
                log.error("the served model %r cannot be loaded: %s", name, why)
                self._failures[name] = why
            if operator is not None and model.preload and state == "idle":
                target = served_target(name, model, operator)
                request = LoadRequest(DEFAULT_TENANT, target.model, target.operator, target.params)
                self._lane.request_load(target.pool, request)
