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
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from batchmill.errors import InvalidOutput, NotFound, StorageError
from batchmill.jobs.dead_letters import DeadRows, dead_letters_name
from batchmill.jobs.job import JobState, ResultsSource
from batchmill.jobs.shard import Shard, parse_shard_id, part_of
from batchmill.jobs.stages import last_stage
from batchmill.jobs.unfinished import FORMAT
from batchmill.ledger.formats.encodings import parse_settled
from batchmill.ledger.formats.settlement import Settled
from batchmill.sinks import InputFingerprint, Manifest, keep_resumed_manifest, resumed_manifest
from batchmill_coordinator.results.inputs import stage_of
from batchmill_coordinator.results.outputs import settled_shards

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from batchmill.jobs.job import FileSource, JobSpec, UploadSource
    from batchmill.jobs.unfinished import UnfinishedWork
    from batchmill.ledger import JobRecord, Ledger
    from batchmill.operators.contract import OperatorInfo
    from batchmill.sinks import Manifest, Publisher
    from batchmill.sources import SourceDescription
    from batchmill.workspace import Workspace

MAX_NAMED_FILES = 1000  # of a source, that a manifest names one by one


@dataclass(frozen=True, slots=True)
class Order:
    """A job about to be accepted, with all that its output depends on."""

    spec: JobSpec
    operators: tuple[OperatorInfo, ...]  # of its stages
    inline: bytes
    description: SourceDescription | None


class Resumption:
    """Hands unfinished work from job to job."""

    def __init__(self, ledger: Ledger, workspace: Workspace) -> None:
        self._ledger = ledger
        self._workspace = workspace

    def left_by(self, record: JobRecord) -> tuple[InputFingerprint, UnfinishedWork]:
        """Return what a job was made from and what it leaves undone; it is about to end before its work is done."""
        inline = b"" if record.spec.source else self._ledger.jobs.inline_input(record.id) or b""
        is_described = record.spec.source is not None and not isinstance(record.spec.source, ResultsSource)
        description = self._workspace.described(record.id) if is_described else None
        fingerprint = self._fingerprint(record.spec, record.last.operator_version, inline, description)
        return fingerprint, self._ledger.unfinished.read(record, record.last)

    def find(self, publisher: Publisher, order: Order) -> Manifest | None:
        """Find the manifest of the unfinished output that a job resumes; None when there is none.

        Raises `InvalidOutput` if it is of another operator, other parameters or another input.
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
        fingerprint = self._fingerprint(order.spec, order.operators[-1].version, order.inline, order.description)
        for what in _differences(manifest, manifest.origin, order, fingerprint):
            raise InvalidOutput(
                f"the output folder {publisher.uri} holds {manifest.rows:,} rows of job {manifest.job}, which was "
                f"{manifest.state}, but this job is not the same: {what}.",
                hint="Submit the same job to resume it, or choose another folder.",
                path=publisher.uri,
                job=manifest.job,
            )
        return manifest

    def keep(self, job_id: str, manifest: Manifest) -> None:
        """Store for the planner what a job resumes. Raises `StorageError`."""
        keep_resumed_manifest(self._workspace.blobs, job_id, manifest)

    def resume_from(self, record: JobRecord, epoch: int) -> None:
        """Begin a job with what another one left. Doing it again is fine. Raises `StorageError`."""
        manifest = resumed_manifest(self._workspace.blobs, record.id)
        if manifest is None or manifest.rest is None:
            raise InvalidOutput(f"job {record.resumed_from} left nothing to resume.")
        dead: Counter[str] = Counter()
        stage = last_stage(record.spec)
        publisher = self._workspace.open_publisher(record.id, record.spec)
        if publisher is not None:
            publisher.adopt(manifest)
        self._adopt_schema(record, stage, manifest)
        for shard in _with_dead_rows(stage, manifest.rest):
            letters = self._copy_dead_rows(manifest.job, record.id, shard).letters
            dead.update(letter.error_type for letter in letters)
        shards = tuple(
            kept.model_copy(update={"plan": self._own_plan(record.id, stage, kept.id, kept.plan)})
            for kept in manifest.rest.shards
        )
        unfinished = manifest.rest.model_copy(update={"shards": shards})
        self._ledger.unfinished.resume_from(record.id, stage, unfinished, dead, epoch)

    def _adopt_schema(self, record: JobRecord, stage: int, manifest: Manifest) -> None:
        """Begin the output's schema with that of the parts that are kept, which were given one."""
        if manifest.parts:
            first = manifest.parts[0]
            token = int(first.name.rpartition("-a")[2].partition(".")[0])
            results = self._workspace.open_results(record.id, record.spec, stage)
            schema = results.schema(parse_shard_id(first.shard or ""), token)
            self._workspace.schema_log(record.id).widen(schema.empty_table())

    def _fingerprint(
        self, spec: JobSpec, operator_version: str, inline: bytes, description: SourceDescription | None
    ) -> InputFingerprint:
        files = description.files if description is not None and description.where == "files" else ()
        return InputFingerprint(
            source=self._digest(spec.source, inline, description),
            files={file.name: f"{file.size} {file.mtime_s}" for file in files} if len(files) <= MAX_NAMED_FILES else {},
            operator_version=operator_version,
            carry=None if spec.last.carry is None else tuple(spec.last.carry),
            skips_nulls=spec.last.on_null == "skip",
            table_version=None if description is None else description.table_version,
        )

    def _digest(
        self,
        source: FileSource | UploadSource | ResultsSource | None,
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


def _with_dead_rows(stage: int, rest: UnfinishedWork) -> Iterator[Settled]:
    for name, entry in rest.settled.items():
        settled = parse_settled(stage, parse_shard_id(name), entry.encode())
        if isinstance(settled, Settled) and settled.rows_dead:
            yield settled


def _differences(manifest: Manifest, before: InputFingerprint, order: Order, now: InputFingerprint) -> Iterator[str]:
    """Describe how a job differs from the one that left the output, a clause each."""
    spec, schema = order.spec.last, order.operators[-1].params_schema
    yield from _other_stages(order.spec)
    if manifest.operator != spec.operator:
        yield f"its operator was {manifest.operator!r}, now it is {spec.operator!r}"
    if before.operator_version != now.operator_version:
        yield f"{spec.operator!r} was of version {before.operator_version!r}, now it is of {now.operator_version!r}"
    was, are = _filled(manifest.params, schema), _filled(spec.params, schema)
    for name in sorted(was.keys() | are.keys()):
        if was.get(name) != are.get(name):
            yield f"the parameter {name!r} was {was.get(name)!r:.80}, now it is {are.get(name)!r:.80}"
    output = order.spec.output
    if output is not None and manifest.format != output.format:
        yield f"its format was {manifest.format}, now it is {output.format}"
    if before.carry != now.carry:
        yield f"it passed {_columns(before.carry)} through, now it passes {_columns(now.carry)}"
    if before.skips_nulls != now.skips_nulls:
        yield 'only one of the two has `on_null` "skip", with which results have other columns'
    if before.source != now.source and before.table_version != now.table_version:
        yield (
            f"it read version {before.table_version} of its table, which is {now.table_version} now: give the source "
            f"`table_version` {before.table_version}"
        )
    yield from _changed_files(before, now)
    if before.source != now.source:
        yield "its input has changed"


def _other_stages(spec: JobSpec) -> Iterator[str]:
    """Only a job of one stage leaves an output that can be resumed."""
    if spec.is_chain:
        yield f"it had one stage, now it has {len(spec.stages)}"


def _changed_files(before: InputFingerprint, now: InputFingerprint) -> Iterator[str]:
    if not before.files or not now.files:
        return
    for name in sorted(before.files.keys() | now.files.keys()):
        if name not in now.files:
            yield f"{name} was among its input and is not any more"
        elif name not in before.files:
            yield f"{name} is among its input and was not before"
        elif before.files[name] != now.files[name]:
            yield f"{name} has changed since"


def _columns(carry: tuple[str, ...] | None) -> str:
    return "all columns" if carry is None else ", ".join(carry) or "no column"


def _filled(params: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters with the defaults that the operator announces."""
    properties = schema.get("properties", {})
    return {name: field["default"] for name, field in properties.items() if "default" in field} | dict(params)
