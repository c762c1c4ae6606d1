"""Replays: rows of an ended job become a job of their own, whose results are merged into the first one's.

They are its failed rows, or all rows of shards whose results are damaged or missing (`redo`). A replay is run like any
other job, and the first job is unchanged until the replay's results are merged.
"""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from batchmill.columns.lineage import SOURCE_ROW
from batchmill.errors import Conflict, InvalidRequest, InvalidSource, NotFound
from batchmill.jobs.dead_letters import BAD_LINE, INCOMPLETE, TOO_LARGE
from batchmill.jobs.files import UploadSource, upload_part
from batchmill.jobs.ids import new_id
from batchmill.jobs.job import JobState
from batchmill.jobs.shard import format_shard_id
from batchmill.jobs.sink import PUBLISH_OPERATOR, STORE_OPERATOR, amending
from batchmill.jobs.stages import FIRST_STAGE, last_stage, stage_called
from batchmill.ledger.submission import Submission
from batchmill.streams.base import BAD_MESSAGE, LOST_MESSAGE
from batchmill_coordinator.admission import chain_redo
from batchmill_coordinator.admission.acceptance import KeyTurns, accept, tenant_key
from batchmill_coordinator.admission.edits import edited, unfit_columns
from batchmill_coordinator.admission.fusion import without_fusion
from batchmill_coordinator.admission.sinks import SinkAdmission
from batchmill_coordinator.admission.uploads import Uploads
from batchmill_coordinator.inspection.inspector import InspectedSource
from batchmill_coordinator.results.damage import RowsAgain, damaged_shards, read_again
from batchmill_coordinator.results.dead_rows import DeadRowFilter
from batchmill_coordinator.results.inputs import live_readers, open_input
from batchmill_coordinator.results.redone_parts import redone_name
from batchmill_coordinator.results.replay_rows import write_replay_rows
from batchmill_coordinator.results.stage_source import StageSource

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Mapping

    from batchmill.jobs.dead_letters import DeadLetter, DeadRows
    from batchmill.jobs.job import JobSpec, StageSpec
    from batchmill.jobs.replay import RedoRequest, ReplayRequest, RowEdit
    from batchmill.ledger import JobRecord, Ledger
    from batchmill.settings import CoordinatorSettings
    from batchmill.storage.named_webhooks import NamedWebhooks
    from batchmill.workspace import Workspace
    from batchmill_coordinator.inspection.inspector import Inspector
    from batchmill_coordinator.results.dead_rows import DeadRowStore

_UNREAD = (BAD_LINE, BAD_MESSAGE, LOST_MESSAGE, TOO_LARGE)
_BY_EDITS = "Rows that could not be read, or have a value of another type than those before, need an edit."


class Replays:
    """Submits replays."""

    def __init__(
        self,
        ledger: Ledger,
        workspace: Workspace,
        dead_rows: DeadRowStore,
        inspector: Inspector,
        webhooks: NamedWebhooks,
        settings: CoordinatorSettings,
    ) -> None:
        self._inspector = inspector
        self._webhooks = webhooks
        self._ledger = ledger
        self._workspace = workspace
        self._uploads = Uploads(ledger, workspace, inspector, settings)
        self._dead_rows = dead_rows
        self._settings = settings
        self._sinks = SinkAdmission(ledger, workspace, settings)
        self._turns = KeyTurns()

    def begin(self, record: JobRecord, request: ReplayRequest, tenant: str) -> tuple[str, bool]:
        """Submit the replay of a job's failed rows; return the new job's id, and whether it is new.

        tenant: who pays for it. Raises `Conflict` if the job has not ended, `InvalidRequest` if no row is to be run
        again or an edit does not fit.
        """

        def rows(stage: int) -> Iterator[RowsAgain]:
            for dead in self._chosen(record, stage, request):
                yield RowsAgain(_with_lineage(record.spec, stage, dead), [letter.index for letter in dead.letters])

        def prepare(undo: ExitStack) -> Submission:
            stage = _stage_to_replay(record, request)
            places, submission = self._prepare(record, stage, rows(stage), tenant, undo, failed_before=True)
            _require_all(record, request, places)
            write_replay_rows(self._workspace, submission.job_id, places)
            return submission

        return self._accept(record, request, tenant, prepare)

    def redo(self, record: JobRecord, request: RedoRequest, tenant: str) -> tuple[str, bool]:
        """Submit a job that does shards again whose results are damaged; return its id, and whether it is new.

        tenant: who pays for it. Raises `Conflict` if the job has not ended, or its rows have not come from its source,
        `InvalidRequest` if nothing is damaged, and `InvalidSource` if the source has changed.
        """

        def prepare(undo: ExitStack) -> Submission:
            if record.spec.has_lineage:
                return self._redo_chain(record, request, tenant, undo)
            results = self._workspace.open_results(record.id, record.spec, last_stage(record.spec))
            chosen = None if request.shards is None else frozenset(request.shards)
            damaged = list(damaged_shards(self._ledger, record, results, self._dead_rows, chosen))
            if not damaged and (chosen is not None or self._is_output_intact(record)):
                raise _nothing_damaged(record)
            wanted = [range(one.first_row, one.first_row + one.rows + one.rows_dead) for one in damaged]
            rows = self._read_again(record, wanted)
            places, submission = self._prepare(record, FIRST_STAGE, rows, tenant, undo, failed_before=False)
            redone = {format_shard_id(one.shard_id): one.token for one in damaged}
            write_replay_rows(self._workspace, submission.job_id, places, redone)
            return submission

        return self._accept(record, request, tenant, prepare)

    def _redo_chain(self, record: JobRecord, request: RedoRequest, tenant: str, undo: ExitStack) -> Submission:
        """Prepare the redo of a job of several stages: all rows that damaged results may be from, from its start."""
        chain_redo.require_possible(record)
        chosen = None if request.shards is None else frozenset(request.shards)
        runs = chain_redo.damaged_runs(self._ledger, self._workspace, record, chosen)
        if not runs and (chosen is not None or self._is_output_intact(record)):
            raise _nothing_damaged(record)
        failed = {
            index
            for shard in self._dead_rows.shards(record, 0)
            for index in self._dead_rows.read(record.id, shard).indices
        }
        wanted = chain_redo.source_rows(runs, record.first.rows_planned)
        again = self._read_again(record, wanted)
        rows = (chain_redo.with_source_row(some, failed) for some in again)
        until = max((run.stage for run in runs), default=0) + 1
        places, submission = self._prepare(record, FIRST_STAGE, rows, tenant, undo, failed_before=False, until=until)
        redone = {redone_name(run.stage, part): part.token for run in runs for part in run.parts}
        write_replay_rows(self._workspace, submission.job_id, places, redone)
        return submission

    def _is_output_intact(self, record: JobRecord) -> bool:
        publisher = self._workspace.open_publisher(record.id, record.spec)
        return publisher is None or record.state is not JobState.COMPLETED or publisher.is_intact()

    def _accept(
        self,
        record: JobRecord,
        request: ReplayRequest | RedoRequest,
        tenant: str,
        prepare: Callable[[ExitStack], Submission],
    ) -> tuple[str, bool]:
        text = f"{record.id} {type(request).__name__} {request.model_dump_json()}"
        digest = hashlib.sha256(text.encode()).hexdigest()[:32]
        key = tenant_key(tenant, request.idempotency_key)
        with self._turns.take(key):
            known = self._known(key, digest)
            if known is not None:
                return known, False
            try:
                require_ended(record)
                _refuse_replay(record)
                self._require_unread(record)
                with self._sinks.turn(record.spec.sink), ExitStack() as undo:
                    submission = replace(prepare(undo), digest=digest, idempotency_key=key)
                    accepted = accept(self._ledger, submission, undo, self._settings, self._webhooks)
            except (InvalidRequest, Conflict):  # another coordinator may have accepted it a moment ago
                known = self._known(key, digest)
                if known is None:
                    raise
                return known, False
            return accepted.job_id, accepted.is_new

    def _known(self, key: str | None, digest: str) -> str | None:
        known = self._ledger.jobs.known_under(key) if key is not None else None
        return known[0] if known is not None and known[1] == digest else None

    def _require_unread(self, record: JobRecord) -> None:
        """Raise `Conflict` while other jobs read what is kept between the stages: it is to be changed."""
        readers = live_readers(self._ledger, record.id)
        if readers:
            raise Conflict(
                f"results between the stages of job {record.id} are read by {', '.join(readers[:5])}.",
                hint="Wait for what reads them, or cancel it.",
                job=record.id,
                readers=readers[:100],
            )

    def _prepare(
        self,
        record: JobRecord,
        stage: int,
        rows: Iterable[RowsAgain],
        tenant: str,
        undo: ExitStack,
        *,
        failed_before: bool,
        until: int | None = None,
    ) -> tuple[list[int], Submission]:
        """Store rows as the input of a new job; return their indices in the first job's input, and that job."""
        _require_no_comparison(record, stage, until)
        blobs, replay_id = self._workspace.blobs, new_id("job")
        upload_id = self._uploads.begin(tenant)
        undo.callback(self._uploads.drop, upload_id, tenant)
        undo.callback(blobs.delete_folder, f"jobs/{replay_id}")
        self._sinks.claim_again(record, replay_id, undo)
        places: list[int] = []
        parts = 0
        for parts, some in enumerate(rows, start=1):
            blobs.put_table(upload_part(upload_id, parts - 1), some.table)
            places += some.indices
        lineage = record.spec.has_lineage
        source = UploadSource(upload=upload_id, parts=parts, failed_before=failed_before, lineage=lineage)
        description = self._inspector.describe_upload(source)
        self._workspace.describe_source(replay_id, description)
        return places, Submission(
            job_id=replay_id,
            spec=_spec(record.spec, stage, source, until or record.spec.gathering_behind(stage)),
            digest="",
            tenant=tenant,
            rows_total=len(places),
            replay_of=record.id,
        )

    def _read_again(self, record: JobRecord, wanted: list[range]) -> Iterator[RowsAgain]:
        """Read rows of a job's source, in other processes; what had to be decompressed for it is deleted after."""
        if record.spec.stream is not None:
            raise InvalidSource(
                f"the rows of job {record.id} are not in {record.spec.stream.title} any more: a stream is read once.",
                hint="Send them again.",
            )
        inline = self._kept_rows(record) if record.spec.source is None else None
        source = open_input(self._ledger, self._workspace, record, FIRST_STAGE, inline)
        if inline is None and not isinstance(source, StageSource):
            source = InspectedSource(record.id, source, self._inspector)
        try:
            for some in read_again(source, wanted, self._settings.shard_max_bytes):
                if some.indices:
                    yield some
        finally:
            if record.state is JobState.COMPLETED:
                self._workspace.delete_staged(record.id)

    def _kept_rows(self, record: JobRecord) -> bytes:
        try:
            return self._workspace.kept_rows(record.id)
        except NotFound as error:
            raise InvalidSource(
                f"the rows that job {record.id} was submitted with were not kept.", hint="Submit the job again."
            ) from error

    def _lacking(self, record: JobRecord, stage: int) -> set[int]:
        """The source rows with a failed row in a stage before one that gathers."""
        if not record.spec.stages[stage].gathers:
            return set()
        return {
            letter.path[0]
            for before in range(stage)
            for shard in self._dead_rows.shards(record, before)
            for letter in self._dead_rows.read(record.id, shard).letters
        }

    def _chosen(self, record: JobRecord, stage: int, request: ReplayRequest) -> Iterator[DeadRows]:
        """The rows to run again, a shard at a time, in input order.

        A line, file or message that was not read has no values, and one of another type than those before it is only in
        the letter of its row: such rows are run again only with an edit. A source row of which a row has failed in an
        earlier stage is gathered only if its index is named.
        """
        edits: Mapping[int, RowEdit] = {edit.index: edit for edit in request.edits}
        only_edits = bool(edits) and request.indices is None and request.error_type is None
        choice = DeadRowFilter(() if only_edits else request.indices, request.error_type)
        lacking = self._lacking(record, stage)
        for shard in self._dead_rows.shards(record, stage):
            if shard.plan:
                continue  # it was cut short: which of its rows have results is not known any more
            dead = self._dead_rows.read(record.id, shard)
            unread = {letter.index for letter in dead.letters if letter.error_type in _UNREAD}
            unread |= unfit_columns(dead).keys()
            unread -= edits.keys()
            if choice.indices is None:
                unread |= {letter.index for letter in dead.letters if _is_incomplete(letter, lacking)}
            wanted = (choice.among(dead) - unread) | (edits.keys() & {letter.index for letter in dead.letters})
            if wanted:
                yield edited(dead.select(wanted), edits)


def _is_incomplete(letter: DeadLetter, lacking: Container[int]) -> bool:
    return letter.error_type == INCOMPLETE and letter.path[0] in lacking


def _stage_to_replay(record: JobRecord, request: ReplayRequest) -> int:
    """The stage that is named; else the only one with failed rows, or the last. Raises `InvalidRequest`."""
    if request.stage is not None:
        return stage_called(record.spec, request.stage)
    failed = [stage.number for stage in record.stages if stage.rows_dead]
    if len(failed) > 1:
        titles = ", ".join(record.spec.stages[number].title for number in failed)
        raise InvalidRequest(
            f"rows of job {record.id} failed in several stages: {titles}.",
            hint="Replay one stage after the other: name it as `stage`.",
            field="stage",
        )
    return failed[0] if failed else last_stage(record.spec)


def _with_lineage(spec: JobSpec, stage: int, dead: DeadRows) -> pa.Table:
    """The failed rows of a stage; those of a chain's source with the column that later stages have from the first."""
    if not spec.has_lineage or spec.reads_lineage(stage):
        return dead.rows
    return dead.rows.add_column(0, SOURCE_ROW, pa.array([letter.index for letter in dead.letters], pa.int64()))


def _spec(spec: JobSpec, stage: int, source: UploadSource, until: int | None) -> JobSpec:
    """The first job's from a stage on, over other rows, without what applied to all rows.

    until: the stage before which it ends. A replay ends before a stage that gathers: that needs all rows of a source
    row, and waits for the others, too.
    """
    first, *behind = (_again(one) for one in spec.stages[stage:until])
    stages = (without_fusion(first), *behind)
    changes = {"source": source, "output": None, "deadline_at": None, "stages": stages}
    return spec.model_copy(update=changes)


def _require_no_comparison(record: JobRecord, stage: int, until: int | None) -> None:
    """Raise `Conflict` if a replay would pass through a stage whose results depend on all rows of the job."""
    taking = (one for one in record.spec.stages[stage:until] if one.is_undivided and one.operator != PUBLISH_OPERATOR)
    found = next(taking, None)
    if found is not None:
        raise Conflict(
            f"results of stage {found.title!r} depend on all rows of job {record.id}; a replay would have some only.",
            hint="Submit the job again with these rows repaired.",
            job=record.id,
        )


def _again(stage: StageSpec) -> StageSpec:
    """A stage as a replay runs it: without a limit of failed rows; what it stores is added to what is there."""
    changes: dict[str, Any] = {"retry": stage.retry.model_copy(update={"max_dead": None})}
    if stage.operator in (STORE_OPERATOR, PUBLISH_OPERATOR):
        changes["params"] = amending(stage.params)
    return stage.model_copy(update=changes)


def require_ended(record: JobRecord) -> None:
    """Raise `Conflict` while a job may still have more failed rows."""
    if not record.state.is_final:
        raise Conflict(
            f"job {record.id} is {record.state}; its dead letters can be replayed or purged when it has ended.",
            hint="Wait for it, or cancel it.",
            job=record.id,
            state=record.state,
        )


def _refuse_replay(record: JobRecord) -> None:
    if record.replay_of is not None:
        raise Conflict(
            f"job {record.id} is a replay itself; its failed rows are among the dead letters of {record.replay_of}.",
            hint=f"Replay {record.replay_of}.",
            job=record.id,
            replay_of=record.replay_of,
        )


def _nothing_damaged(record: JobRecord) -> InvalidRequest:
    return InvalidRequest(
        f"no results of job {record.id} that were checked are damaged or missing.",
        hint="Leave out `shards` to check all. Failed rows are run again by a replay.",
        job=record.id,
    )


def _require_all(record: JobRecord, request: ReplayRequest, places: list[int]) -> None:
    """Raise `InvalidRequest` unless there are rows, and all that were named are among them."""
    found = set(places)
    named = [*(request.indices or ()), *(edit.index for edit in request.edits)]
    missing = [] if request.error_type else sorted(set(named) - found)
    if missing:
        shown = ", ".join(map(str, missing[:5])) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise InvalidRequest(
            f"not among the dead letters of job {record.id}: {shown}.",
            hint=f"`batchmill dead {record.id}` lists them. Those that were purged or replayed are gone; those of "
            "shards that were at work when the job stopped are run by submitting it again over its output. "
            + _BY_EDITS,
            rows=missing[:100],
        )
    if not found:
        raise InvalidRequest(
            f"job {record.id} has no dead letters to replay"
            + (f" in the stage {request.stage!r}" if request.stage else "")
            + (f" of type {request.error_type!r}." if request.error_type else "."),
            hint=f"`batchmill dead {record.id}` lists what it has. {_BY_EDITS}",
        )
