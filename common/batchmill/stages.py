"""The stages of a job, by number: the one place that says how many a job has."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchmill.job import JobSpec


def stages_of(spec: JobSpec) -> range:  # noqa: ARG001  # every job has one stage until specs have several
    """Return the numbers of a job's stages, in the order in which rows pass through them; never empty."""
    return range(1)


def last_stage(spec: JobSpec) -> int:
    """Return the number of the stage whose results are the job's."""
    return stages_of(spec)[-1]
