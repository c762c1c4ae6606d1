"""The rows and the options of `Client.submit` that a command line of `batchmill submit` means."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypedDict

import click

from batchmill.cli.arguments.values import json_lines, params_of, params_of_file
from batchmill.errors import InvalidRequest
from batchmill.jobs.job import BatchPolicy, RetryPolicy

if TYPE_CHECKING:
    from datetime import datetime, timedelta
    from pathlib import Path

    from batchmill.client.submitting.options import JobOptions
    from batchmill.jobs.job import OnNull

STDIN = "-"
_NO_OPERATOR = frozenset("./*?:\\~")
"""Characters of paths and URIs that the name of an operator cannot have."""


class SubmitFlags(TypedDict):
    """The options of the command as click passes them."""

    params: tuple[tuple[str, Any], ...]
    output: str | None
    output_format: str | None
    max_rows_per_file: int | None
    target_file_bytes: int | None
    sink: str | None
    sink_name: str | None
    sink_vector: str | None
    sink_id: str | None
    sink_mode: str | None
    carry: list[str] | None
    name: str | None
    pool: str | None
    priority: int
    deadline: datetime | timedelta | None
    max_attempts: int | None
    max_dead: float | None
    budget: float | None
    batch_size: int | None
    on_null: OnNull
    cache: bool
    any_version: bool
    webhooks: tuple[str, ...]
    idempotency_key: str | None
    params_file: Path | None
    upload: bool
    retry_on: list[str] | None
    never_on: list[str] | None
    backoff: float | None


JOB_FILE_ENDINGS = (".toml", ".json")


def check_sources(operator: str, sources: tuple[str, ...]) -> None:
    """Raise `InvalidRequest` if there is none, or only one in the place of the operator."""
    if not sources and (_NO_OPERATOR & set(operator) or operator == STDIN):
        command = f"batchmill {click.get_current_context().info_name}"
        raise InvalidRequest(
            f"the operator is missing: {operator!r} is a source, which follows it.",
            hint=f"`{command} OPERATOR {operator}`; `batchmill operators` lists operators. "
            f"A job file ends in {' or '.join(JOB_FILE_ENDINGS)}.",
        )
    if not sources:
        raise InvalidRequest(
            "the source is missing: expected a file, a folder, a glob or a URI.",
            hint=f"`-` reads JSON Lines from stdin. A job file ends in {' or '.join(JOB_FILE_ENDINGS)}.",
        )


def job_input(
    operator: str, sources: tuple[str, ...], fields: dict[str, Any], flags: SubmitFlags
) -> tuple[Any, JobOptions]:
    """Return the rows, None for files that the service reads, and the options of `Client.submit`."""
    options = job_options(flags)
    check_sources(operator, sources)
    if STDIN not in sources:
        paths = list(sources) if len(sources) > 1 else sources[0]
        source = {"path": paths, **fields}
        if flags["upload"]:
            return _upload(source), options
        options["source"] = source
        return None, options
    if len(sources) > 1 or fields not in ({}, {"format": "jsonl"}):
        raise InvalidRequest("`-` cannot be combined with other sources or options about files: stdin is JSON Lines.")
    return json_lines(sys.stdin.buffer, "stdin"), options


def _upload(source: dict[str, Any]) -> Any:
    from batchmill.cli.arguments.local_rows import local_rows
    from batchmill.client.submitting.submission import file_source

    return local_rows(file_source(source))


def job_options(flags: SubmitFlags) -> JobOptions:
    """Return the options of `Client.submit` but the source."""
    output = flags["output"]
    about_output = {
        "format": flags["output_format"],
        "max_rows_per_file": flags["max_rows_per_file"],
        "target_file_bytes": flags["target_file_bytes"],
    }
    for name, value in about_output.items():
        if value is not None and not output:
            flag = "output-format" if name == "format" else name.replace("_", "-")
            raise InvalidRequest(f"--{flag} needs --output.", hint="Add --output FOLDER.")
    limits = {
        "max_attempts": flags["max_attempts"],
        "max_dead": flags["max_dead"],
        "retry_on": flags["retry_on"],
        "never_on": flags["never_on"],
        "backoff_s": flags["backoff"],
    }
    return {
        "params": params_of_file(flags["params_file"]) | params_of(flags["params"]),
        "output": _given({"path": output, **about_output}) if output else None,
        "sink": _sink(flags),
        "carry": flags["carry"],
        "name": flags["name"],
        "pool": flags["pool"],
        "priority": flags["priority"],
        "deadline": flags["deadline"],
        "retry": RetryPolicy.model_validate(_given(limits)),
        "batch": BatchPolicy(size=flags["batch_size"]),
        "on_null": flags["on_null"],
        "cache": flags["cache"],
        "budget": flags["budget"],
        "any_version": flags["any_version"],
        "webhooks": [_webhook(text) for text in flags["webhooks"]],
        "idempotency_key": flags["idempotency_key"],
    }


def _webhook(text: str) -> dict[str, Any]:
    name, _, url = text.partition("=")
    return _given({"name": name, "url": url or None})


def _sink(flags: SubmitFlags) -> dict[str, Any] | None:
    about = {
        "name": flags["sink_name"],
        "vector": flags["sink_vector"],
        "id": flags["sink_id"],
        "mode": flags["sink_mode"],
    }
    lonely = next((name for name, value in about.items() if value is not None and not flags["sink"]), None)
    if lonely is not None:
        raise InvalidRequest(f"--sink-{lonely} needs --sink.", hint="Add --sink PATH.")
    return _given({"to": flags["sink"], **about}) if flags["sink"] else None


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
