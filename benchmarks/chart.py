"""A picture of a report: its speeds side by side, each with its spread."""

from __future__ import annotations

from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent.parent / "docs" / "images"


def draw(report: dict[str, Any], folder: Path = DOCS) -> Path:
    """Write `<folder>/benchmark-<name>.svg`: every figure in rows/s, median, lowest and highest."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    speeds = [one for one in report["figures"] if one["unit"] == "rows/s"][::-1]
    spread = [
        [one["median"] - one["low"] for one in speeds],
        [one["high"] - one["median"] for one in speeds],
    ]
    colours = ["#2a6f97" if "Batchmill" in one["name"] else "#a0a0a0" for one in speeds]
    figure, axes = plt.subplots(figsize=(9, 0.45 * len(speeds) + 1.2), layout="constrained")
    axes.barh([one["name"] for one in speeds], [one["median"] for one in speeds], xerr=spread, color=colours, capsize=3)
    axes.set_xlabel("rows/s, median with lowest and highest run")
    axes.set_title(f"{report['benchmark']}: {report['machine']['cpu']}, {report['machine']['cores']} cores")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"benchmark-{report['benchmark']}.svg"
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return path
