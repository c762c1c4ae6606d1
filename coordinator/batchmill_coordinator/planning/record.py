"""A plan as it is stored, with what was measured for it so far."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill.insights.plans import Plan
from batchmill.jobs.frozen import Frozen
from batchmill.jobs.job import JobRequest

if TYPE_CHECKING:
    from batchmill.ledger import JobRecord
    from batchmill.ledger.documents import Document


class StageRound(Frozen):
    """What one stage took in one round of the sample. Times are in microseconds, money in billionths."""

    rows: int  # that it was given
    dead: int
    results: int
    work_us: int  # of devices, without loading models
    load_us: int
    nano: int  # without loading models
    padding_us: int = 0  # of the work


class Round(Frozen):
    """What was measured in one job over rows of the sample."""

    rows: int
    seconds: float  # from its start to its end
    stages: tuple[StageRound, ...]
    errors: dict[str, int]

    @property
    def work_us(self) -> int:
        """Time of devices in all stages, without loading models."""
        return sum(stage.work_us for stage in self.stages)

    @property
    def load_us(self) -> int:
        """Time in which models were loaded."""
        return sum(stage.load_us for stage in self.stages)

    @property
    def padding_us(self) -> int:
        """Time of devices for the padding of rows."""
        return sum(stage.padding_us for stage in self.stages)

    @property
    def nano(self) -> int:
        """What the rows cost."""
        return sum(stage.nano for stage in self.stages)

    @classmethod
    def of(cls, job: JobRecord, errors: dict[str, int]) -> Round:
        """Return what a job took that has ended."""
        ended, began = job.finished_at or 0, job.started_at or job.created_at
        return cls(
            rows=job.first.rows_done + job.first.rows_dead,
            seconds=max(ended - began, 0) / 1000,
            stages=tuple(
                StageRound(
                    rows=stage.rows_done + stage.rows_dead,
                    dead=stage.rows_dead,
                    results=stage.rows_out or stage.rows_done - stage.rows_filtered,
                    work_us=stage.cost.us.total - stage.cost.us.load,
                    load_us=stage.cost.us.load,
                    nano=stage.cost.nano.total - stage.cost.nano.load,
                    padding_us=stage.cost.us.padding,
                )
                for stage in job.stages
            ),
            errors=errors,
        )


class PlanRecord(Frozen):
    """A plan as it is stored.

    request: of the job, its rows in a source. upload: the sample of the source; None until it is read. kept, read,
    unreadable: its rows, those that were read for it, and those of them that cannot be read. alike: how much neighbours
    in the source are, from 0 to 1. taken: the rows of the sample that rounds have taken. job: of the round that runs.
    submitted_workers: when the job was submitted.
    """

    plan: Plan
    request: JobRequest
    upload: str | None = None
    kept: int = 0
    read: int = 0
    unreadable: int = 0
    alike: float = 0.0
    taken: int = 0
    job: str | None = None
    rounds: tuple[Round, ...] = ()
    submitted_workers: int = 0


def read_record(document: Document) -> PlanRecord:
    """Read a plan as it is stored."""
    return PlanRecord.model_validate_json(document.body)
