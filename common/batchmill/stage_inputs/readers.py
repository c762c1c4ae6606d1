"""How a stage reads the results of the one before it: as they are, gathered, or with the last row of a step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill.stage_inputs.gathered_results import GatheredResults
from batchmill.stage_inputs.state_rows import StateRows

if TYPE_CHECKING:
    from batchmill.jobs.job import StageSpec
    from batchmill.sources.base import RowReader
    from batchmill.stage_results import StageResults


def reader_of(results: StageResults, stage: StageSpec) -> RowReader:
    """Return what reads the input of a stage. results: of the stage before it."""
    if stage.gathers:
        return GatheredResults(results)
    return StateRows(results) if stage.keeps_state else results
