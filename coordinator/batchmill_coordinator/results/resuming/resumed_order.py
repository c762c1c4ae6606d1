"""What distinguishes a job from the one whose unfinished output it would resume. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from batchmill.sinks import StageFingerprint
from batchmill.wording import count

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from batchmill.jobs.job import JobSpec, StageSpec
    from batchmill.operators.contract import OperatorInfo
    from batchmill.sinks import InputFingerprint, Manifest
    from batchmill.sources import SourceDescription


ANY_VERSION = ""
"""The version of the operators of a job that several may do."""


@dataclass(frozen=True, slots=True)
class Order:
    """A job about to be accepted, with all that its output depends on."""

    spec: JobSpec
    operators: tuple[OperatorInfo, ...]  # of its stages
    inline: bytes
    description: SourceDescription | None


def stage_fingerprint(stage: StageSpec, operator_version: str) -> StageFingerprint:
    """Return what a stage is, for a job that would resume what it made."""
    return StageFingerprint(
        name=stage.title,
        operator=stage.operator,
        params=stage.params,
        operator_version=operator_version,
        carry=None if stage.carry is None else tuple(stage.carry),
        skips_nulls=stage.on_null == "skip",
        keep=stage.keep,
    )


def differences(manifest: Manifest, before: InputFingerprint, order: Order, now: InputFingerprint) -> Iterator[str]:
    """Describe how a job differs from the one that left the output, a clause each."""
    if len(before.stages) != len(now.stages):
        yield f"it had {count(len(before.stages) + 1, 'stage')}, now it has {count(len(now.stages) + 1, 'stage')}"
        return
    for was, stage, operator in zip(before.stages, now.stages, order.operators, strict=False):
        yield from (f"of stage {was.name!r}, {what}" for what in _of_earlier_stage(was, stage, operator))
    yield from _apart(manifest, order.spec)
    last = StageFingerprint(
        name="",
        operator=manifest.operator,
        params=manifest.params,
        operator_version=before.operator_version,
        carry=before.carry,
        skips_nulls=before.skips_nulls,
    )
    yield from _of_stage(last, stage_fingerprint(order.spec.last, now.operator_version), order.operators[-1])
    output = order.spec.output
    if output is not None and manifest.format != output.format:
        yield f"its format was {manifest.format}, now it is {output.format}"
    if before.source != now.source and before.table_version != now.table_version:
        yield (
            f"it read version {before.table_version} of its table, which is {now.table_version} now: give the source "
            f"`table_version` {before.table_version}"
        )
    yield from _changed_files(before, now)
    if before.source != now.source:
        yield "its input has changed"


def _apart(manifest: Manifest, spec: JobSpec) -> Iterator[str]:
    work = manifest.rest.stages if manifest.rest else ()
    for (before, stage), done in zip(pairwise(spec.stages), work[1:], strict=True):
        if done.joins and before.pool != stage.pool:
            yield f"stage {stage.title!r} ran together with {before.title!r}, and is in another pool now"


def _of_earlier_stage(was: StageFingerprint, now: StageFingerprint, operator: OperatorInfo) -> Iterator[str]:
    if was.name != now.name:
        yield f"the name is {now.name!r} now"
    if now.keep and not was.keep:
        yield "the results were not kept, now they are to be"
    yield from _of_stage(was, now, operator)


def _of_stage(was: StageFingerprint, now: StageFingerprint, operator: OperatorInfo) -> Iterator[str]:
    if was.operator != now.operator:
        yield f"its operator was {was.operator!r}, now it is {now.operator!r}"
    if was.operator_version != now.operator_version:
        yield f"{now.operator!r} was of {_version(was)}, now it is of {_version(now)}"
    before, after = _filled(was.params, operator.params_schema), _filled(now.params, operator.params_schema)
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            yield f"the parameter {name!r} was {before.get(name)!r:.80}, now it is {after.get(name)!r:.80}"
    if was.carry != now.carry:
        yield f"it passed {_columns(was.carry)} through, now it passes {_columns(now.carry)}"
    if was.skips_nulls != now.skips_nulls:
        yield 'only one of the two has `on_null` "skip", with which results have other columns'


def _version(stage: StageFingerprint) -> str:
    return "any version" if stage.operator_version == ANY_VERSION else f"version {stage.operator_version!r}"


def _changed_files(before: InputFingerprint, now: InputFingerprint) -> Iterator[str]:
    if not before.files or not now.files:
        return
    for name in sorted(before.files.keys() | now.files.keys()):
        if name not in now.files:
            yield f"{name} was among its input and is not any more"
        elif name not in before.files:
            yield f"{name} is among its input and was not before"
        elif before.files[name] != now.files[name]:
            yield f"{name} has changed since"


def _columns(carry: tuple[str, ...] | None) -> str:
    return "all columns" if carry is None else ", ".join(carry) or "no column"


def _filled(params: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters with the defaults that the operator announces."""
    properties = schema.get("properties", {})
    return {name: field["default"] for name, field in properties.items() if "default" in field} | dict(params)
