"""Figures beside those of an earlier commit: what became slower or faster beyond the spread of both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from benchmarks.tables import number

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MIN_CHANGE = 0.1  # of a median; less is not shown
FAILS_AT = 1.5  # times as slow
TIMES = frozenset({"s", "ms", "µs"})
RATES = "/s"


@dataclass(frozen=True, slots=True)
class Change:
    """A figure whose runs are all on one side of those of the earlier commit."""

    benchmark: str
    figure: str
    unit: str
    before: float
    after: float

    @property
    def slowdown(self) -> float | None:
        """How many times as slow it is; None where larger is neither faster nor slower."""
        if min(self.before, self.after) <= 0:
            return None
        if self.unit in TIMES:
            return self.after / self.before
        return self.before / self.after if self.unit.endswith(RATES) else None

    @property
    def verdict(self) -> Literal["slower", "faster", "changed"]:
        """What it means."""
        if self.slowdown is None:
            return "changed"
        return "slower" if self.slowdown > 1 else "faster"

    @property
    def is_failure(self) -> bool:
        """Whether it is far slower, which a machine of the same kind does not explain."""
        return self.slowdown is not None and self.slowdown >= FAILS_AT


def changes(before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]) -> Iterator[Change]:
    """Yield what has changed between the reports of two commits. What was measured with other settings is left out."""
    known = {(report["benchmark"], str(report["settings"])): report for report in before}
    for report in after:
        earlier = known.get((report["benchmark"], str(report["settings"])))
        figures = {one["name"]: one for one in earlier["figures"]} if earlier else {}
        for new in report["figures"]:
            old = figures.get(new["name"])
            if old is not None and old["unit"] == new["unit"] and _differs(old, new):
                yield Change(report["benchmark"], new["name"], new["unit"], old["median"], new["median"])


def is_comparable(before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]) -> bool:
    """Return whether both are from machines of one kind."""
    kinds = {(one["machine"]["cpu"], one["machine"]["cores"]) for one in (*before, *after)}
    return len(kinds) <= 1


def markdown(found: Sequence[Change], *, comparable: bool) -> str:
    """Write the changes as Markdown."""
    if not comparable:
        return "The earlier figures are from a machine of another kind: they are not compared.\n"
    if not found:
        return "No figure has changed beyond the spread of its runs.\n"
    lines = [
        f"| {one.benchmark}: {one.figure} | {number(one.before)} {one.unit} | {number(one.after)} {one.unit} "
        f"| {one.verdict}{', by too much' if one.is_failure else ''} |"
        for one in found
    ]
    return "\n".join(["| figure | before | now | |", "| --- | ---: | ---: | --- |", *lines, ""])


def _differs(old: dict[str, Any], new: dict[str, Any]) -> bool:
    is_apart = new["low"] > old["high"] or new["high"] < old["low"]
    return bool(is_apart and abs(new["median"] - old["median"]) > MIN_CHANGE * abs(old["median"]))
