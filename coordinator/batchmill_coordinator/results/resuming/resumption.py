"""Resumption: a job submitted again over an output that an earlier one left unfinished does only what is missing.

1. A job that stops leaves in its manifest what it was made from, which shards are settled, and how far its source was
   planned.
2. Admission finds such a manifest, compares, and takes the output; a difference is named and refused.
3. The planner's first step puts the settled shards into the new job, with their dead letters, and the unfinished ones
   back in its queue; then it continues where the earlier job's planner stopped. No row of the input is read for that.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import TYPE_CHECKING

import pyarrow as pa

from batchmill.errors import InvalidOutput, NotFound, StorageError
from batchmill.jobs.dead_letters import DeadRows, dead_letters_name
from batchmill.jobs.files import ResultsSource
from batchmill.jobs.job import JobState
from batchmill.jobs.shard import Shard, parse_shard_id, part_of
from batchmill.jobs.stages import last_stage
from batchmill.jobs.unfinished import FORMAT
from batchmill.ledger.formats.settlement import Settled
from batchmill.ledger.unfinished import settled_of
from batchmill.sinks import InputFingerprint, Manifest, keep_resumed_manifest, resumed_manifest
from batchmill.stage_results import settled_shards
from batchmill_coordinator.results.inputs import stage_of
from batchmill_coordinator.results.resuming.resumed_order import ANY_VERSION, differences, stage_fingerprint
from batchmill_coordinator.results.resuming.resumed_stages import ResumedStages

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import ExitStack

    from batchmill.jobs.files import FileSource, UploadSource
    from batchmill.jobs.job import JobSpec
    from batchmill.jobs.streams.source import AnyStream
    from batchmill.jobs.unfinished import UnfinishedShard, UnfinishedWork
    from batchmill.ledger import JobRecord, Ledger
    from batchmill.ledger.formats.settlement import Settled
    from batchmill.sinks import Manifest, Publisher
    from batchmill.sources import SourceDescription
    from batchmill.workspace import Workspace
    from batchmill_coordinator.results.resuming.resumed_order import Order

MAX_NAMED_FILES = 1000  # of a source, that a manifest names one by one


class Resumption:
    """Hands unfinished work from job to job."""

    def __init__(self, ledger: Ledger, workspace: Workspace) -> None:
        self._ledger = ledger
        self._workspace = workspace
        self._stages = ResumedStages(ledger, workspace)

    def left_by(self, record: JobRecord) -> tuple[InputFingerprint, UnfinishedWork]:
        """Return what a job was made from and what it leaves undone; it is about to end before its work is done."""
        inline = b"" if record.spec.source else self._ledger.jobs.inline_input(record.id) or b""
        is_described = record.spec.source is not None and not isinstance(record.spec.source, ResultsSource)
        description = self._workspace.described(record.id) if is_described else None
        versions = tuple(stage.operator_version for stage in record.stages)
        return self._fingerprint(record.spec, versions, inline, description), self._ledger.unfinished.read(record)

    def find(self, publisher: Publisher, order: Order) -> Manifest | None:
        """Find the manifest of the unfinished output that a job resumes; None when there is none.

        Raises `InvalidOutput` if it is of other operators, other parameters or another input.
        """
        try:
            manifest = publisher.published()
        except StorageError:
            return None  # taking the output reports what is wrong with it
        if manifest is None:
            return None
        if manifest.rest is None or manifest.origin is None:
            is_done = manifest.state is JobState.COMPLETED
            what = "finished results" if is_done else f"results, which cannot be resumed as it was {manifest.state},"
            raise InvalidOutput(
                f"the output folder {publisher.uri} holds the {what} of job {manifest.job}, {manifest.rows:,} rows.",
                hint="Choose another folder, or empty this one to compute them again.",
                path=publisher.uri,
                job=manifest.job,
            )
        if manifest.rest.version != FORMAT:
            raise InvalidOutput(
                f"the output folder {publisher.uri} holds {manifest.rows:,} rows of job {manifest.job}, left by a "
                f"Batchmill whose unfinished outputs are of form {manifest.rest.version}; this one needs {FORMAT}.",
                hint="Finish it with the version that began it, or choose another folder.",
                path=publisher.uri,
                job=manifest.job,
            )
        versions = tuple(operator.version for operator in order.operators)
        fingerprint = self._fingerprint(order.spec, versions, order.inline, order.description)
        for what in differences(manifest, manifest.origin, order, fingerprint):
            raise InvalidOutput(
                f"the output folder {publisher.uri} holds {manifest.rows:,} rows of job {manifest.job}, which was "
                f"{manifest.state}, but this job is not the same: {what}.",
                hint="Submit the same job to resume it, or choose another folder.",
                path=publisher.uri,
                job=manifest.job,
            )
        return manifest

    def keep(self, job_id: str, manifest: Manifest, undo: ExitStack) -> None:
        """Store for the planner what a job resumes. Raises `StorageError`, and as `ResumedStages.hold`."""
        self._stages.hold(manifest, job_id, undo)
        keep_resumed_manifest(self._workspace.blobs, job_id, manifest)

    def resume_from(self, record: JobRecord, epoch: int) -> None:
        """Begin a job with what another one left. Doing it again is fine. Raises `StorageError`."""
        manifest = resumed_manifest(self._workspace.blobs, record.id)
        if manifest is None or manifest.rest is None:
            raise InvalidOutput(f"job {record.resumed_from} left nothing to resume.")
        dead: Counter[str] = Counter()
        publisher = self._workspace.open_publisher(record.id, record.spec)
        if publisher is not None:
            publisher.adopt(manifest)
        self._adopt_schema(record, last_stage(record.spec), manifest)
        self._stages.copy(manifest.job, record, manifest.rest)
        for number, work in enumerate(manifest.rest.stages):
            for shard in settled_of(number, work):
                if shard.rows_dead:
                    letters = self._copy_dead_rows(manifest.job, record.id, shard).letters
                    dead.update(letter.error_type for letter in letters)
        self._ledger.unfinished.resume_from(record.id, self._own_work(record.id, manifest.rest), dead, epoch)
        self._stages.release(manifest.job, record.id)

    def _own_work(self, job_id: str, rest: UnfinishedWork) -> UnfinishedWork:
        """Return the work with plans that use no blobs of the earlier job."""

        def own(number: int, shards: Sequence[UnfinishedShard]) -> tuple[UnfinishedShard, ...]:
            plans = (self._own_plan(job_id, number, one.id, one.plan) for one in shards)
            return tuple(one.model_copy(update={"plan": plan}) for one, plan in zip(shards, plans, strict=True))

        earlier = tuple(
            work.model_copy(update={"shards": own(number, work.shards)}) for number, work in enumerate(rest.earlier)
        )
        return rest.model_copy(update={"shards": own(len(earlier), rest.shards), "earlier": earlier})

    def _adopt_schema(self, record: JobRecord, stage: int, manifest: Manifest) -> None:
        """Begin the output's schema with that of the parts that are kept, which were given one."""
        if manifest.parts:
            first = manifest.parts[0]
            token = int(first.name.rpartition("-a")[2].partition(".")[0])
            results = self._workspace.open_results(record.id, record.spec, stage)
            schema = results.schema(parse_shard_id(first.shard or ""), token)
            self._workspace.schema_log(record.id).widen(schema.empty_table())

    def _fingerprint(
        self, spec: JobSpec, versions: Sequence[str], inline: bytes, description: SourceDescription | None
    ) -> InputFingerprint:
        if spec.any_version:
            versions = [ANY_VERSION] * len(versions)
        files = description.files if description is not None and description.where == "files" else ()
        return InputFingerprint(
            source=self._digest(spec.source, inline, description),
            files={file.name: f"{file.size} {file.mtime_s}" for file in files} if len(files) <= MAX_NAMED_FILES else {},
            operator_version=versions[-1],
            carry=None if spec.last.carry is None else tuple(spec.last.carry),
            skips_nulls=spec.last.on_null == "skip",
            table_version=None if description is None else description.table_version,
            stages=tuple(
                stage_fingerprint(one, version) for one, version in zip(spec.stages[:-1], versions, strict=False)
            ),
        )

    def _digest(
        self,
        source: FileSource | UploadSource | ResultsSource | AnyStream | None,
        inline: bytes,
        description: SourceDescription | None,
    ) -> str:
        """Return hexadecimal digits that change when the input does."""
        if not isinstance(source, ResultsSource):
            return self._workspace.digest(inline, description)
        job, stage = stage_of(self._ledger, source)
        shards = settled_shards(self._ledger, job, stage.number)
        names = [part_of(part.shard_id, part.token) for shard in shards for part in shard.parts if part.results]
        return hashlib.blake2b(" ".join([job.id, str(stage.number), *names]).encode(), digest_size=16).hexdigest()

    def _copy_dead_rows(self, earlier_id: str, job_id: str, shard: Settled) -> DeadRows:
        """Copy the dead letters of the earlier job, if it was not deleted since, to the new one."""
        blobs = self._workspace.blobs
        old, new = dead_letters_name(shard.ref(earlier_id)), dead_letters_name(shard.ref(job_id))
        try:
            dead = DeadRows.from_table(blobs.read_table(old))
        except NotFound:
            dead = DeadRows((), pa.table({}))
        blobs.put_table(new, dead.table())
        return dead

    def _own_plan(self, job_id: str, stage: int, shard_id: str, plan: str) -> str:
        """Make a plan that uses no blobs of the earlier job: text that was decompressed for a shard is copied."""
        shard = Shard.from_plan(job_id, stage, parse_shard_id(shard_id), plan)
        return shard.with_slices([self._workspace.own_staged(job_id, one) for one in shard.slices]).plan()
