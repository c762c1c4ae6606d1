"""What a job was run with, as its users see it: secrets are hidden. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from batchmill.jobs.job import JobForm

if TYPE_CHECKING:
    from batchmill.jobs.job import JobSpec

HIDDEN = "***"
_SECRET_NAME = re.compile(r"(?i)(^|[_-])(passwords?|passwd|secrets?|token|api_?keys?|credentials?|private_?key)$")
_USER_INFO = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)[^/@\s]+@")


def shown_request(spec: JobSpec) -> JobForm:
    """The request with the values of parameters that are secrets by their name, and user names in URLs, replaced."""
    form = JobForm.of(spec)
    stages = form.stages and [one.model_copy(update={"params": _shown(one.params)}) for one in form.stages]
    return form.model_copy(update={"params": _shown(form.params), "stages": stages})


def _shown(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: HIDDEN if _is_secret(name, item) else _shown(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_shown(item) for item in value]
    if isinstance(value, str):
        return _USER_INFO.sub(rf"\1{HIDDEN}@", value)
    return value


def _is_secret(name: str, value: Any) -> bool:
    return isinstance(value, str) and bool(value) and _SECRET_NAME.search(name) is not None
