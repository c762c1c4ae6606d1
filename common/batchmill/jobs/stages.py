"""The stages of a job, by number: the one place that says how many a job has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill.errors import InvalidRequest, nearest_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchmill.jobs.job import JobSpec


FIRST_STAGE = 0
"""The number of the stage that reads a job's source."""


def stages_of(spec: JobSpec) -> range:
    """Return the numbers of a job's stages, in the order in which rows pass through them; never empty."""
    return range(FIRST_STAGE, len(spec.stages))


def last_stage(spec: JobSpec) -> int:
    """Return the number of the stage whose results are the job's."""
    return stages_of(spec)[-1]


def stage_called(spec: JobSpec, name: str) -> int:
    """Return the number of the stage of that name. Raises `InvalidRequest`."""
    titles = [stage.title for stage in spec.stages]
    if name in titles:
        return titles.index(name)
    raise InvalidRequest(
        f"the job has no stage {name!r}; its stages are: {', '.join(titles)}.",
        hint=nearest_of(name, titles),
        field="stage",
    )


def carried_through(spec: JobSpec, columns: Sequence[str]) -> list[str]:
    """Return which of the input's columns every stage carries, in the order in which the first one does."""
    names = list(columns)
    for stage in spec.stages:
        if stage.carry is not None or stage.gathers:
            names = [name for name in stage.carry or () if name in names]
    return names
