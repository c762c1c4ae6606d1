"""Admission of jobs over streams: whose stream it is, where the job begins in it, and what it cannot have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill.errors import Conflict, InvalidOutput, InvalidRequest, InvalidSource, NotFound
from batchmill.jobs.job import DEFAULT_TENANT
from batchmill.jobs.streams.offsets import StreamOffsets
from batchmill.jobs.streams.source import Folder, Kafka, Nats
from batchmill.streams.opening import open_stream
from batchmill.streams.watched_folder import WatchedFolder
from batchmill.tokens import split_entry

if TYPE_CHECKING:
    from contextlib import ExitStack

    from batchmill.jobs.job import JobSpec
    from batchmill.jobs.streams.source import AnyStream
    from batchmill.ledger import Ledger
    from batchmill.settings import CoordinatorSettings
    from batchmill.sources.base import EndlessSource
    from batchmill.workspace import Workspace

PLAIN_STARTS = ("first", "new")


class StreamAdmission:
    """Checks jobs over streams, and opens these."""

    def __init__(self, ledger: Ledger, workspace: Workspace, settings: CoordinatorSettings) -> None:
        self._ledger = ledger
        self._workspace = workspace
        tenants = (split_entry(entry).tenant for entry in settings.tokens)
        self._tenants = frozenset(tenant for tenant in tenants if tenant)

    def open(self, job_id: str, spec: JobSpec, source: AnyStream, tenant: str) -> tuple[JobSpec, EndlessSource]:
        """Return the job with its tenant and where it begins, and its stream. Asks the source whether it is there.

        Raises `InvalidRequest` for what such a job cannot have, `InvalidSource` for a stream that the tenant may not
        read, or a start that is none, and `StreamUnavailable` if the source is away.
        """
        _check(spec, source)
        self._require_own(source, tenant)
        source = source.model_copy(update={"tenant": tenant})
        stream = open_stream(self._ledger, self._workspace, job_id, source)
        offsets = stream.first_cursor() if source.start in PLAIN_STARTS else self._drained(source, stream, tenant)
        source = source.model_copy(update={"offsets": offsets})
        stream = open_stream(self._ledger, self._workspace, job_id, source)
        stream.survey("")
        return spec.model_copy(update={"source": source}), stream

    def take_output(self, job_id: str, spec: JobSpec, undo: ExitStack) -> None:
        """Take the output of a job over a stream, if it has one.

        Raises `InvalidOutput` if it cannot be taken, `Conflict` while another job takes it.
        """
        output = self._workspace.open_rolled(job_id, spec)
        if output is None or spec.stream is None:
            return
        with self._ledger.turns.take(f"output:{output.uri}") as has_turn:
            if not has_turn:
                raise Conflict(f"another job takes the output {output.uri}.", hint="Choose another folder.")
            output.take(None if spec.stream.start in PLAIN_STARTS else spec.stream.start)
        undo.callback(output.release)

    def _require_own(self, source: AnyStream, tenant: str) -> None:
        if isinstance(source, Folder):
            self._workspace.locations.resolve(source.path)
            return
        if isinstance(source, Kafka | Nats):  # its server says who may read it, when it is opened
            return
        other, colon, _ = source.stream.partition(":")
        if tenant == DEFAULT_TENANT and colon and other in self._tenants:
            raise InvalidSource(
                f"{source.title} belongs to the tenant {other!r}.", hint="Use its token.", field="source.stream"
            )

    def _drained(self, source: AnyStream, stream: EndlessSource, tenant: str) -> str:
        """Return how far a job has read the stream that was drained. Raises as `open`."""
        try:
            job = self._ledger.jobs.read(source.start)
        except NotFound:
            job = None
        if job is None or job.tenant != tenant:
            raise InvalidSource(
                f"source.start: expected 'first', 'new' or the id of a drained job, got {source.start!r}.",
                field="source.start",
            )
        before = job.spec.stream
        if before is None or before.continued != source.continued:
            raise InvalidSource(f"source.start: job {job.id} does not read {source.title}.", field="source.start")
        if not job.savepoint:
            raise Conflict(
                f"job {job.id} was not drained, so that where it has stopped is not known.",
                hint=f"Run `batchmill drain {job.id}` first.",
                job=job.id,
            )
        savepoint = job.savepoint if StreamOffsets.parse(job.savepoint).partitions else before.offsets
        return stream.follow(job.id, savepoint) if isinstance(stream, WatchedFolder) else savepoint


def _check(spec: JobSpec, source: AnyStream) -> None:
    if source.tenant is not None or source.offsets:
        raise InvalidRequest("source.tenant and source.offsets are set by the service.", field="source")
    if spec.sink is not None and spec.sink.mode != "upsert":
        raise InvalidRequest(
            f"sink.mode: a job over a stream has no end at which its rows could take the place of all others, as "
            f"{spec.sink.mode!r} means.",
            hint="Use mode 'upsert', with `id`, the column that says which document a row is from.",
            field="sink.mode",
        )
    if spec.output is not None and spec.output.is_file:
        raise InvalidOutput(
            f"{spec.output.path} is one file, which would be written at the end of the job: a stream has none.",
            hint="Give a folder, in which files appear while the job runs.",
            field="output.path",
        )
