"""What a benchmark finds: figures with their spread, and how they compare with the bars that were set."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured quantity over all its runs."""

    name: str
    unit: str
    runs: list[float]
    note: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.runs)

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"median": self.median, "low": min(self.runs), "high": max(self.runs)}


@dataclass(frozen=True, slots=True)
class Bar:
    """What a value has to reach. `value` and `bar` are in `unit`; `target` is hoped for, not asked."""

    what: str
    value: float
    sense: Literal["at least", "at most", "below"]
    bar: float
    unit: str
    target: float | None = None

    @property
    def is_met(self) -> bool:
        match self.sense:
            case "at least":
                return self.value >= self.bar
            case "at most":
                return self.value <= self.bar
            case "below":
                return self.value < self.bar

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"is_met": self.is_met}


@dataclass(frozen=True, slots=True)
class Report:
    """All that one benchmark found. `settings` says what was run; `remarks` what a reader must know to judge it."""

    benchmark: str
    settings: dict[str, Any]
    figures: list[Figure]
    bars: list[Bar]
    remarks: list[str] = field(default_factory=list)

    def to_json(self, machine: dict[str, Any]) -> dict[str, Any]:
        return {
            "benchmark": self.benchmark,
            "machine": machine,
            "settings": self.settings,
            "figures": [figure.to_json() for figure in self.figures],
            "bars": [bar.to_json() for bar in self.bars],
            "remarks": self.remarks,
        }


def write(body: dict[str, Any], folder: Path) -> Path:
    """Put a report into `<folder>/<benchmark>.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{body['benchmark']}.json"
    path.write_text(json.dumps(body, indent=1) + "\n")
    return path


def read_all(folder: Path) -> list[dict[str, Any]]:
    """The reports in a folder, by name."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
