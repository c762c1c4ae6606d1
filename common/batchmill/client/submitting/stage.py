"""A stage of a job, as users write it in Python."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from batchmill.errors import InvalidRequest
from batchmill.jobs.job import StageForm
from batchmill.jobs.stateful.window_params import check_window
from batchmill.jobs.stateful.windows import WINDOW_OPERATOR
from batchmill.wording import fault_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batchmill.jobs.job import BatchPolicy, OnNull, RetryPolicy

_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([KMGT]i?B|B)?")
_UNITS = {"": 1, "B": 1} | {
    f"{prefix}{form}": base**power
    for power, prefix in enumerate("KMGT", start=1)
    for form, base in (("B", 1000), ("iB", 1024))
}


class Stage:
    """A stage of a job of several: `submit(stages=[Stage("chunk", size=200), Stage("embed", pool="gpu")])`.

    Args:
        operator: Name of an operator that the service's workers have loaded.
        name: What the stage is called in status, costs and dead letters. None: as its operator.
        pool: The pool of workers that it runs on. This and the next four are as the job says where they are None.
        retry: How often its rows are tried.
        batch: How many rows its operator gets at once.
        cache: Whether it uses the row cache.
        on_null: What becomes of a row without a value that its operator requires.
        carry: Columns of its input to pass through. None: all.
        keep: Whether its results stay until the job is deleted, instead of until the next stage has settled them.
        buffer: How many bytes of its results may wait for the next stage: a number, or text such as "256MiB".
        params: Parameters of its operator that have the name of an argument of `Stage`.
        more: The other parameters of its operator.

    Raises:
        InvalidRequest: An argument is not valid.
    """

    def __init__(
        self,
        operator: str,
        /,
        *,
        name: str | None = None,
        pool: str | None = None,
        retry: RetryPolicy | None = None,
        batch: BatchPolicy | None = None,
        cache: bool | None = None,
        on_null: OnNull | None = None,
        carry: Sequence[str] | None = None,
        keep: bool = False,
        buffer: int | str | None = None,
        params: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> None:
        fields: dict[str, Any] = {
            "operator": operator,
            "name": name,
            "pool": pool,
            "retry": retry,
            "batch": batch,
            "cache": cache,
            "on_null": on_null,
            "carry": None if carry is None else list(carry),
            "keep": keep,
            "params": {**(params or {}), **more},
        }
        if buffer is not None:
            fields["buffer_bytes"] = parse_size(buffer)
        try:
            self.form = StageForm.model_validate(fields)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise InvalidRequest(f"stage {operator!r}: {fault_of(first)}", field=where) from error
        if operator == WINDOW_OPERATOR:
            check_window(self.form.params)

    def __repr__(self) -> str:
        return f"Stage({self.form.name or self.form.operator!r})"


def parse_size(size: int | str) -> int:
    """Read a number of bytes: 268435456, "256MiB", "1.5 GB". Raises `InvalidRequest`."""
    if isinstance(size, int) and not isinstance(size, bool):
        return size
    found = _SIZE.fullmatch(str(size).strip())
    if found is None:
        raise InvalidRequest(f"expected a number of bytes such as 1000000 or '256MiB', got {size!r}.", field="buffer")
    return int(float(found[1]) * _UNITS[found[2] or ""])
