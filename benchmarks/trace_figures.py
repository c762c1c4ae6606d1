"""Device figures from a trace: its idle share and its speed. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Steady:
    """A job between its start and its end: from its first commit until the last shard was loaded."""

    rows_per_s: float
    idle_share: float


def spans(events: Sequence[dict[str, Any]], job_id: str, name: str) -> list[dict[str, Any]]:
    """The phases of that name of one job, the earliest first."""
    found = [one for one in events if one["ph"] == "X" and one["name"] == name and job_id in one["args"]["shard"]]
    return sorted(found, key=lambda one: float(one["ts"]))


def steady(events: Sequence[dict[str, Any]], job_id: str) -> Steady:
    """The steady part of a job on one worker. Raises `ValueError` if it has none."""
    begins = min(one["ts"] + one["dur"] for one in spans(events, job_id, "commit"))
    ends = max(one["ts"] + one["dur"] for one in spans(events, job_id, "load"))
    inside = [one for one in spans(events, job_id, "infer") if begins <= one["ts"] and one["ts"] + one["dur"] <= ends]
    if len(inside) < 2:
        raise ValueError("the job has too few shards for a steady part")
    took = inside[-1]["ts"] - inside[0]["ts"]
    busy = sum(one["dur"] for one in inside[:-1])
    return Steady(sum(one["args"]["rows"] for one in inside[:-1]) / took * 1e6, 1 - busy / took)


def batches(events: Sequence[dict[str, Any]], job_id: str) -> tuple[float, float]:
    """The median rows of a job's batches, and their median units."""
    inferred = sorted(spans(events, job_id, "infer"), key=lambda one: float(one["args"]["units"]))
    middle = inferred[len(inferred) // 2]["args"]
    return float(middle["rows"]), float(middle["units"])


def padding_share(events: Sequence[dict[str, Any]], job_id: str) -> float:
    """Of all units that a job's batches had, those that were padding."""
    ran = [one["args"] for one in spans(events, job_id, "infer")]
    return 1 - sum(one["true_units"] for one in ran) / sum(one["units"] for one in ran)
