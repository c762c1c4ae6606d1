"""Which jobs of a list are wanted. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from batchmill.errors import InvalidRequest, did_you_mean
from batchmill.jobs.job import JobState

if TYPE_CHECKING:
    from collections.abc import Collection

    from batchmill.jobs.status import JobStatus


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Conditions that all have to hold; None is no condition. Raises `InvalidRequest` for an unknown state."""

    state: Collection[str] | str | None = None
    name: str | None = None  # a pattern with `*` and `?`
    operator: str | None = None
    tenant: str | None = None

    def __post_init__(self) -> None:
        for state in self._states():
            if state not in set(JobState):
                raise InvalidRequest(
                    f"there is no job state {state!r}.", hint=did_you_mean(state, [str(one) for one in JobState])
                )

    @property
    def excludes_some(self) -> bool:
        """Whether there is any condition."""
        return any(condition is not None for condition in (self.state, self.name, self.operator, self.tenant))

    def accepts(self, status: JobStatus) -> bool:
        """Return whether a job is wanted."""
        return (
            (self.state is None or status.state in self._states())
            and (self.name is None or fnmatchcase(status.name or "", self.name))
            and self.operator in (None, status.operator, *(stage.operator for stage in status.stages))
            and self.tenant in (None, status.tenant)
        )

    def _states(self) -> Collection[str]:
        return () if self.state is None else [self.state] if isinstance(self.state, str) else self.state
