"""What is checked of a request for a job before anything is read or stored."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from batchmill.errors import InvalidRequest, UnknownOperator
from batchmill.jobs.files import UploadSource
from batchmill.jobs.sink import RESERVED_OPERATORS, STAGES

if TYPE_CHECKING:
    from batchmill.jobs.job import JobRequest, JobSpec

_NOT_COMPARED: dict[str, Any] = {"idempotency_key": True, "deadline": True, "deadline_at": True, "source": {"upload"}}


def refuse_reserved(spec: JobSpec) -> None:
    """Raise `UnknownOperator` if a user names an operator that only the service itself runs."""
    own = (stage.operator for stage in spec.stages if stage.operator.startswith(RESERVED_OPERATORS))
    for operator in list(own)[: None if spec.sink is None else -len(STAGES)]:
        raise UnknownOperator(f"only the service itself runs {operator!r}.", hint="Give `sink`.", operator=operator)


def require_one_input(request: JobRequest) -> None:
    """Raise `InvalidRequest` unless a request names exactly one input."""
    given = [name for name in ("rows", "rows_arrow", "source") if getattr(request, name) is not None]
    if len(given) != 1:
        raise InvalidRequest(
            f"expected either rows or a source, got: {' and '.join(given) or 'neither'}.",
            hint="Give `rows` for rows in the request, `source` for files that the service can read.",
        )
    if isinstance(request.source, UploadSource) and request.source.lineage:
        raise InvalidRequest(
            "source.lineage is set by replays only; got true.", hint="Leave it out.", field="source.lineage"
        )


def digest_of(request: JobRequest) -> str:
    """What distinguishes two requests, whatever the order of their fields and the names of their uploads.

    Their deadlines do not: one that is given from now on is another moment each time.
    """
    body = request.model_dump(mode="json", exclude=_NOT_COMPARED)
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:32]
