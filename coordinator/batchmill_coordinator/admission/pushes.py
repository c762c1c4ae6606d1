"""Rows that are sent to a stream: checked, stored if they are many, and added to it in one step of the ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill.errors import InvalidRows, Overloaded
from batchmill.jobs.ids import id_before, new_id
from batchmill.jobs.streams.pushing import Pushed, PushedStream
from batchmill.ledger.streams import PushedRows, PushLimits
from batchmill.streams.pushed import delete_pushed
from batchmill.workspace import stream_from_table, table_from_stream
from batchmill_coordinator.admission.column_checks import check_names
from batchmill_coordinator.inspection.arrow_bounds import arrow_limits
from batchmill_coordinator.inspection.request_rows import check_shape, table_from_json

if TYPE_CHECKING:
    import pyarrow as pa

    from batchmill.jobs.streams.pushing import PushRequest
    from batchmill.ledger import Ledger
    from batchmill.settings import CoordinatorSettings
    from batchmill.workspace import Workspace
    from batchmill_coordinator.inspection.inspector import Inspector

MAX_INLINE_BYTES = 16 * 1024
"""Of rows that are stored in the stream itself; more are a blob that it names."""
BEHIND_ALL = "+"
PUSH_ID = "psh"
MAX_PUSH_S = 3600.0
"""A request that stored its rows before that, and has not added them to the stream, never does."""


class Pushes:
    """Takes rows for the streams of tenants."""

    def __init__(
        self, ledger: Ledger, workspace: Workspace, inspector: Inspector, settings: CoordinatorSettings
    ) -> None:
        self._ledger = ledger.streams
        self._blobs = workspace.blobs
        self._inspector = inspector
        self._bounds = arrow_limits(settings)
        self._limits = PushLimits(settings.max_streams_per_tenant, settings.max_stream_bytes_per_tenant)

    def push(self, tenant: str, name: str, request: PushRequest) -> Pushed:
        """Add rows to a stream. Raises `InvalidRows`, or `Overloaded` when the tenant has as much as it may."""
        table = self._table(request)
        if not table.num_rows:
            raise InvalidRows("expected at least one row, got none.", field="rows")
        stream = stream_from_table(table)
        call, blob = new_id(PUSH_ID), None
        if len(stream) > MAX_INLINE_BYTES:
            blob = f"{stream_folder(tenant, name)}/{call}.arrow"
            self._blobs.put_table(blob, table)
        sent = PushedRows(
            call=call,
            rows=table.num_rows,
            nbytes=len(stream),
            data=stream if blob is None else None,
            blob=blob,
            producer=request.producer,
            sequence=request.sequence or 0,
        )
        try:
            offset = self._ledger.push(tenant, name, sent, self._limits)
        except Overloaded:  # without any other answer, the entry may be there and name the blob
            if blob is not None:
                self._blobs.delete(blob)
            raise
        if offset is None and blob is not None:
            self._blobs.delete(blob)
        return Pushed(stream=name, rows=table.num_rows, offset=offset, known=offset is None)

    def streams(self, tenant: str) -> list[PushedStream]:
        """Return the streams of a tenant, by name."""
        names = self._ledger.names_of(tenant)
        return [
            PushedStream(name=name, rows=self._ledger.pushed_state(tenant, name).rows, nbytes=nbytes)
            for name, nbytes in names.items()
        ]

    def delete(self, tenant: str, name: str) -> None:
        """Delete a stream with the rows that are not settled. Raises `NotFound`.

        Rows that are being sent meanwhile begin the stream anew, or are deleted with it: the blob of a request that is
        not yet in the stream is left alone.
        """
        while delete_pushed(self._ledger, self._blobs, tenant, name, BEHIND_ALL):
            pass
        left = self._ledger.forget_pushed(tenant, name)
        self._blobs.delete(*(one.blob for one in left if one.blob is not None))
        unused = f"{stream_folder(tenant, name)}/{id_before(PUSH_ID, MAX_PUSH_S)}"
        for blob in self._blobs.list(stream_folder(tenant, name)):
            if blob < unused:
                self._blobs.delete(blob)

    def _table(self, request: PushRequest) -> pa.Table:
        if request.rows is None:
            table = table_from_stream(self._inspector.read_rows(request.rows_arrow or ""))
        else:
            check_shape(request.rows, self._bounds)
            table = table_from_json(request.rows, self._bounds)
        check_names(table.schema)
        return table


def stream_folder(tenant: str, name: str) -> str:
    """Name the blob folder of the rows of a stream."""
    return f"streams/{tenant}/{name}"
