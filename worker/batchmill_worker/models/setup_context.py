"""What an operator may know about the worker that sets it up, besides the device that `setup` receives."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchmill.storage.locations import Locations
from batchmill.storage.named_endpoints import NamedEndpoints
from batchmill.storage.named_stores import NamedStores
from batchmill_worker.backends.converted_models import ConvertedModels

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchmill.kept_results import JobResults
    from batchmill.ledger.workers.endpoints import EndpointLedger
    from batchmill.storage.blobs import BlobStore
    from batchmill_worker.models.model_memory import SlotMemory


@dataclass(frozen=True, slots=True)
class SetupContext:
    """What is the same for every operator of a worker process.

    locations: the places that users may name; without any, no folder may be read.
    converted_models: where models are stored that were converted for another library than torch.
    stores: those that the settings name.
    endpoints: the services of language models that the settings name.
    memory: what a model may take; None: unknown.
    shared_limits: what services take from all workers together; None: this process is alone.
    blobs: the service's; None: there is none.
    job_results: opens the results of jobs; None: there are none.
    devices: how many GPUs the process has; 1 on the CPU.
    device_share: its part of each.
    """

    locations: Locations = Locations(())  # noqa: RUF009  # never changed: one may serve all
    converted_models: ConvertedModels = ConvertedModels()  # noqa: RUF009  # the same
    stores: NamedStores = NamedStores()  # noqa: RUF009  # the same
    blobs: BlobStore | None = None
    endpoints: NamedEndpoints = NamedEndpoints()  # noqa: RUF009  # the same
    memory: SlotMemory | None = None
    shared_limits: EndpointLedger | None = None
    job_results: JobResults | None = None
    devices: int = 1
    device_share: float = 1.0

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make this the context that `current` returns to the calling thread."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)


_current: ContextVar[SetupContext] = ContextVar("setup_context")


def current() -> SetupContext:
    """Return the context of the worker that is calling `setup`; outside of `setup`, one that allows no folder."""
    return _current.get(SetupContext())
