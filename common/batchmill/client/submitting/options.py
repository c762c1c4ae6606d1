"""The options of `submit`, declared once for both clients, the spec of a job and the command line."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar

from batchmill.errors import did_you_mean
from batchmill.jobs.job import JobForm

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Collection, Mapping, Sequence
    from datetime import datetime, timedelta

    from batchmill.client.submitting.stage import Stage
    from batchmill.jobs.job import BatchPolicy, RetryPolicy
    from batchmill.jobs.sink import SinkSpec
    from batchmill.jobs.streams.source import StreamSource
    from batchmill.jobs.webhooks.spec import WebhookSpec

F = TypeVar("F", bound="Callable[..., Any]")


class JobOptions(TypedDict, total=False):
    """The options of a job, all optional.

    Args:
        source: A file, folder or glob, several of them, or `{"path": …, "format": …, …}` with the fields of
            `FileSource`. The service reads them; relative paths start at the current folder. Or a stream, of which the
            job has no end: `RedisStream("events")`.
        params: The operator's parameters.
        stages: Instead of an operator: the stages that the rows pass through, as `Stage` or as dicts with the fields of
            `StageForm`.
        output: A folder for the results, or `{"path": …, "format": "parquet" | "jsonl"}`, also with
            `max_rows_per_file` or `target_file_bytes`. None: the service keeps the results.
        sink: A store for the results instead: a path that ends in `.lance` or `.usearch`, `STORE:TABLE`, or a
            `SinkSpec`, or a dict with its fields.
        carry: Input columns to pass through to the results. None: all columns.
        name: A name for the job, for people.
        pool: The pool of workers to run on. None: the pool `default`.
        priority: -100 to 100; higher runs first.
        deadline: When the job expires unless it has ended: a datetime with a time zone, or a span from when it is
            accepted, as "2h", a timedelta or in seconds. Among jobs of equal priority, the earliest deadline runs
            first.
        retry: How often rows are tried, the waits in between, and how many rows may fail.
        batch: How many rows an operator gets at once. None: as the operator says.
        cache: Use the row cache: rows whose results are known from earlier jobs are not computed again, new results
            are stored, and equal rows are computed once.
        on_null: "dead", "skip" or "fail": whether a row without a value that the operator requires becomes a dead
            letter, is left out of the results, or fails the job. With "skip", results start with a column
            `source_row`, the index of their row in the job's input.
        fuse: Whether one attempt runs neighbouring stages of a pool, so that the results between them are not stored:
            "auto": those that cost less than that; True: all that may; False: none.
        any_version: Whether rows may be done by different versions of the job's operators, so that a rolling update of
            the workers never blocks it. By default, all rows are done by one version.
        budget: Pause the job when it has cost this much, in the service's currency; `resume` can raise it.
        webhooks: Who gets a message when the job has ended, or many of its rows have failed: names that the service
            knows, or dicts with the fields of `WebhookSpec`.
        idempotency_key: Submitting again with the same key returns the existing job.
    """

    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Mapping[str, Any] | StreamSource | None
    params: Mapping[str, Any] | None
    stages: Sequence[Stage | Mapping[str, Any]] | None
    output: str | os.PathLike[str] | Mapping[str, Any] | None
    sink: str | os.PathLike[str] | SinkSpec | Mapping[str, Any] | None
    carry: Sequence[str] | None
    name: str | None
    pool: str | None
    priority: int
    deadline: datetime | timedelta | float | str | None
    retry: RetryPolicy | None
    batch: BatchPolicy | None
    cache: bool
    on_null: Literal["dead", "skip", "fail"]
    fuse: bool | Literal["auto"]
    any_version: bool
    budget: float | None
    webhooks: Sequence[str | WebhookSpec | Mapping[str, Any]] | None
    idempotency_key: str | None


_TYPES: Mapping[str, str] = {
    name: getattr(kind, "__forward_arg__", str(kind)) for name, kind in JobOptions.__annotations__.items()
}
_DEFAULTS = {
    "priority": JobForm.model_fields["priority"].default,
    "cache": JobForm.model_fields["cache"].default,
    "on_null": "dead",
    "fuse": JobForm.model_fields["fuse"].default,
    "any_version": JobForm.model_fields["any_version"].default,
}


def check_names(options: Collection[str]) -> None:
    """Raise `TypeError` for an option that `submit` does not have, with the nearest known names."""
    for name in options:
        if name not in _TYPES:
            raise TypeError(f"submit() got an unexpected keyword argument {name!r}. {did_you_mean(name, _TYPES)}")


def with_job_options(submit: F) -> F:
    """Give `submit(…, **options: Unpack[JobOptions])` a signature and a docstring that list every option.

    Type checkers understand `Unpack`; `inspect.signature`, `help` and notebooks see only `**options` without this.
    """
    signature = inspect.signature(submit)
    *before, _ = signature.parameters.values()
    listed = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=_DEFAULTS.get(name), annotation=kind)
        for name, kind in _TYPES.items()
    ]
    submit.__signature__ = signature.replace(parameters=[*before, *listed])  # type: ignore[attr-defined]  # inspect reads it
    if submit.__doc__ and JobOptions.__doc__:  # both are None under `python -OO`
        own, options = inspect.cleandoc(submit.__doc__), inspect.cleandoc(JobOptions.__doc__)
        _, _, described = options.partition("Args:\n")
        submit.__doc__ = own.replace("\n\nReturns:", f"\n{described}\n\nReturns:")
    return submit
