"""The job that a command line names: by its id, the beginning of its id, its name, or `last`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

from batchmill.errors import InvalidRequest, NotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from batchmill.client import Client, Job

LAST = "last"
MAX_NAMED = 5
"""Jobs that the error for an ambiguous name lists."""
_FULL_ID = re.compile(r"job-[0-9a-z]{20}")


def job_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the argument JOB; the command receives `job_id`, to be resolved with `find_job`."""
    return click.argument("job_id", metavar="JOB")(command)


def jobs_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the argument JOB, one or several times; the command receives `job_ids`."""
    return click.argument("job_ids", metavar="JOB...", nargs=-1, required=True)(command)


def find_job(client: Client, given: str) -> Job:
    """Return the job of an id, of a unique beginning of an id, of a unique name, or the newest one for `last`.

    A full id needs no request. A replay has the name of its job, and gives way to it. Raises `NotFound` for no such
    job, `InvalidRequest` for several.
    """
    if _FULL_ID.fullmatch(given) or not given.strip():
        return client.job(given)
    if given == LAST:
        newest = client.jobs(1)
        if not newest:
            raise NotFound("there are no jobs yet.", hint="`batchmill submit --help` shows how to submit one.")
        return newest[0]
    known = client.jobs()
    exact = [job for job in known if job.id == given]
    named = [job for job in known if job.latest is not None and job.latest.name == given]
    named = [job for job in named if job.latest is not None and job.latest.replay_of is None] or named
    found = exact or named or [job for job in known if _begins(job.id, given)]
    if not found:
        raise NotFound(
            f"there is no job with the id or name {given!r}.",
            hint="Expected an id, the beginning of one, a name or `last`; `batchmill jobs` lists them.",
            job=given,
        )
    if len(found) > 1:
        raise InvalidRequest(
            f"{given!r} matches {len(found)} jobs: {_listed(found)}.", hint="Give the id of one of them.", job=given
        )
    return found[0]


def _begins(job_id: str, given: str) -> bool:
    return job_id.startswith(given) or job_id.removeprefix("job-").startswith(given)


def _listed(found: Iterable[Job]) -> str:
    ids = [job.id for job in found]
    return ", ".join(ids[:MAX_NAMED]) + (", …" if len(ids) > MAX_NAMED else "")
