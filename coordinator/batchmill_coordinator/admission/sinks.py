"""Admission of jobs with a sink: the store must be there, and nobody else may write to the same place."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from batchmill.errors import Conflict, InvalidOutput, NotFound
from batchmill.storage.named_stores import NamedStores
from batchmill_coordinator.indexes.catalog import Claim, IndexCatalog, target_key
from batchmill_coordinator.indexes.targets import target_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import ExitStack

    from batchmill.jobs.index_status import IndexStatus
    from batchmill.jobs.job import JobSpec
    from batchmill.jobs.sink import SinkSpec
    from batchmill.ledger import JobRecord, Ledger
    from batchmill.operators.contract import OperatorInfo
    from batchmill.settings import CoordinatorSettings
    from batchmill.workspace import Workspace


class SinkAdmission:
    """Checks sinks and claims their targets."""

    def __init__(self, ledger: Ledger, workspace: Workspace, settings: CoordinatorSettings) -> None:
        self._ledger = ledger
        self._locations = workspace.locations
        self._catalog = IndexCatalog(workspace.blobs)
        self._stores = NamedStores.load(settings.stores)

    def check(self, spec: JobSpec, operators: Sequence[OperatorInfo], tenant: str) -> None:
        """Raise `InvalidOutput` for a sink that the tenant may not write, or rows that do not fit what is there."""
        if spec.sink is None:
            return
        if spec.sink.table is not None:
            self._stores.get(spec.sink.table.store, tenant)
        target = target_of(spec.sink, self._locations)
        claim = self._catalog.claim_of(target)
        if claim is not None and claim.tenant != tenant:
            raise InvalidOutput(f"the sink {spec.sink.to} belongs to another tenant.", hint="Choose another place.")
        known = self._catalog.find(tenant, spec.sink.index_name)
        if known is not None:
            _require_fit(spec, spec.sink, known, vector_stage(spec, operators), target_of(known.sink, self._locations))

    @contextmanager
    def turn(self, sink: SinkSpec | None) -> Iterator[None]:
        """Let no other job into a sink be submitted while the context lasts: a claim counts once its job is accepted.

        Raises `Conflict` while one is, and `InvalidOutput` for a place outside of the roots.
        """
        if sink is None:
            yield
            return
        with self._ledger.turns.take(f"sink:{target_key(target_of(sink, self._locations))}") as has_turn:
            if not has_turn:
                raise _taken(sink, "another job")
            yield

    def claim(
        self, job_id: str, spec: JobSpec, operators: Sequence[OperatorInfo], tenant: str, undo: ExitStack
    ) -> None:
        """Check a sink and claim its target for a job. Raises as `check`, and `Conflict` while another job has it."""
        self.check(spec, operators, tenant)
        if spec.sink is not None:
            own = Claim(
                tenant=tenant,
                name=spec.sink.index_name,
                job=job_id,
                origin=job_id,
                stage=vector_stage(spec, operators),
            )
            self._put(spec.sink, own, undo)

    def claim_again(self, record: JobRecord, replay_id: str, undo: ExitStack) -> None:
        """Claim the target of a job for its replay. Raises `Conflict` if another job has written there since."""
        sink = record.spec.sink
        if sink is None:
            return
        before = self._catalog.claim_of(target_of(sink, self._locations))
        if before is None or before.origin != record.id:
            raise Conflict(
                f"another job has written to {sink.to} since job {record.id}; its rows are not those of this job.",
                hint="Submit the job again.",
                job=record.id,
            )
        self._put(sink, before.model_copy(update={"job": replay_id}), undo)

    def _put(self, sink: SinkSpec, own: Claim, undo: ExitStack) -> None:
        target = target_of(sink, self._locations)
        before = self._catalog.claim_of(target)
        if before is not None and self._is_live(before.job):
            raise _taken(sink, before.job)
        if not self._catalog.put_claim(target, own, before):
            raise _taken(sink, "another job")
        undo.callback(self._catalog.take_back, target, own, before)

    def _is_live(self, job_id: str) -> bool:
        try:
            return not self._ledger.jobs.find(job_id).state.is_final
        except NotFound:
            return False


def vector_stage(spec: JobSpec, operators: Sequence[OperatorInfo]) -> int | None:
    """Return the number of the stage that makes the vectors; None if none announces that it does."""
    if spec.sink is None:
        return None
    made = [number for number, one in enumerate(operators) if one.makes is not None and spec.sink.vector in one.makes]
    return made[-1] if made else None


def _taken(sink: SinkSpec, job: str) -> Conflict:
    return Conflict(f"{job} writes to {sink.to}.", hint="Wait for it to end, or cancel it.", job=job)


def _require_fit(spec: JobSpec, sink: SinkSpec, known: IndexStatus, stage: int | None, known_target: str) -> None:
    """Raise `InvalidOutput` if an index of the name is elsewhere, or has vectors that were made in another way."""
    if known_target != sink.to and known.sink.to != sink.to:
        raise InvalidOutput(
            f"the index {sink.index_name!r} is in {known.sink.to}.",
            hint="Give the index of this job another name: sink.name.",
            index=sink.index_name,
        )
    if sink.mode == "replace":
        return
    made_by = None if stage is None else spec.stages[stage]
    if (made_by and made_by.operator, made_by.params if made_by else {}) != (known.operator, known.params):
        was = f"{known.operator} with {known.params}" if known.operator else "vectors of the rows"
        raise InvalidOutput(
            f"the index {sink.index_name!r} was made by {was}; vectors that are made in another way cannot be compared "
            "with them.",
            hint="Use the same operator and parameters, or mode 'replace'.",
            index=sink.index_name,
        )
