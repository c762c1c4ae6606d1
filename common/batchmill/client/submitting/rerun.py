"""The request to run the later stages of an ended job again, from what users write."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from batchmill.client.submitting.stage import parse_size
from batchmill.client.submitting.submission import deadline_fields, output_spec, sink_spec
from batchmill.errors import InvalidRequest
from batchmill.jobs.rerun import RerunRequest, StageChange
from batchmill.wording import fault_of

if TYPE_CHECKING:
    from datetime import datetime, timedelta


def rerun_request(
    from_stage: str,
    stages: Mapping[str, Mapping[str, Any]] | None,
    *,
    output: Any,
    sink: Any,
    name: str | None,
    priority: int | None,
    deadline: datetime | timedelta | float | str | None,
    budget: float | None,
    idempotency_key: str | None,
) -> RerunRequest:
    """Build the body of a rerun. Raises `InvalidRequest` or `InvalidOutput` if a value does not fit."""
    try:
        return RerunRequest.model_validate(
            {
                "from_stage": from_stage,
                "stages": {stage: _change(stage, options) for stage, options in (stages or {}).items()},
                "output": output_spec(output),
                "sink": sink_spec(sink),
                "name": name,
                "priority": priority,
                **deadline_fields(deadline),
                "budget": budget,
                "idempotency_key": idempotency_key or secrets.token_hex(16),
            }
        )
    except ValidationError as error:
        raise InvalidRequest(f"rerun: {fault_of(error.errors()[0])}") from error


def _change(stage: str, options: Any) -> StageChange:
    """Read what is different in a stage, as arguments of `Stage`; what is none of them is a parameter."""
    if not isinstance(options, Mapping):
        raise InvalidRequest(
            f"stages: expected what is different in {stage!r}, such as {{'model': 'NAME'}}, got {options!r:.80}.",
            field="stages",
        )
    for fixed in ("operator", "name"):
        if fixed in options:
            raise InvalidRequest(
                f"stages: the {fixed} of {stage!r} cannot be changed.",
                hint=f"A parameter of that name is given in params: {{'params': {{{fixed!r}: …}}}}.",
                field="stages",
            )
    fields = {name: value for name, value in options.items() if name in StageChange.model_fields}
    fields["params"] = {**fields.get("params", {}), **{name: options[name] for name in options if name not in _OWN}}
    if options.get("buffer") is not None:
        fields["buffer_bytes"] = parse_size(options["buffer"])
    try:
        return StageChange.model_validate(fields)
    except ValidationError as error:
        raise InvalidRequest(f"stages: {stage!r}: {fault_of(error.errors()[0])}", field="stages") from error


_OWN = {*StageChange.model_fields, "buffer"}
