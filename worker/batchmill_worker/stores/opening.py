"""Which store a sink means, opened within what the worker may use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill.errors import InvalidOutput
from batchmill.jobs.sink import USEARCH_ENDING
from batchmill.storage.anchors import real_path
from batchmill.storage.named_stores import StoreKind
from batchmill_worker.stores.chroma import ChromaStore
from batchmill_worker.stores.lance import LanceStore
from batchmill_worker.stores.postgres import PostgresStore
from batchmill_worker.stores.qdrant import QdrantStore
from batchmill_worker.stores.usearch import UsearchStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchmill.jobs.sink import SinkSpec
    from batchmill.storage.named_stores import NamedStore
    from batchmill_worker.models.setup_context import SetupContext
    from batchmill_worker.stores.base import Store

_KINDS: dict[StoreKind, Callable[[NamedStore, str], Store]] = {
    StoreKind.POSTGRES: PostgresStore,
    StoreKind.CHROMA: ChromaStore,
    StoreKind.QDRANT: QdrantStore,
}


def open_store(sink: SinkSpec, context: SetupContext) -> Store:
    """Open the store of a sink; nothing is connected or made yet.

    Raises `InvalidOutput` for a path outside the roots, or a store that the worker's settings do not name.
    """
    if sink.table is not None:
        store = context.stores.get(sink.table.store)
        return _KINDS[store.kind](store, sink.table.table)
    location = context.locations.resolve(sink.to, error=InvalidOutput)
    if not location.is_local:
        raise InvalidOutput(f"{sink.to} is in an object store; a sink needs a folder.", path=sink.to)
    path = real_path(location.path)
    return UsearchStore(path) if sink.to.endswith(USEARCH_ENDING) else LanceStore(path)
