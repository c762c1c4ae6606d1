"""Reports as people read them: tables on a terminal, and Markdown for the documentation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterator

FIGURE_HEADS = ("", "median", "lowest", "highest", "runs")
BAR_HEADS = ("", "measured", "bar", "target", "")


def number(value: float) -> str:
    """Three digits that count, with thousands separated."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def show(report: dict[str, Any]) -> None:
    """Print a report."""
    console = Console()
    console.print(f"\n[bold]{report['benchmark']}[/bold]  ({settings_line(report)})", highlight=False)
    for heads, lines in _tables_of(report):
        table = Table(*heads, box=None, pad_edge=False, header_style="dim")
        for line in lines:
            table.add_row(*line)
        console.print(table)
    for remark in report["remarks"]:
        console.print(f"- {remark}", highlight=False)


def markdown(reports: list[dict[str, Any]]) -> str:
    """All reports as Markdown, the machine first."""
    if not reports:
        return "No figures yet: `make bench` makes them.\n"
    machine = reports[0]["machine"]
    facts = f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']:.0f} GB; {_versions(machine)}."
    return "\n".join([f"Measured on {facts}", *(line for report in reports for line in _markdown_of(report)), ""])


def settings_line(report: dict[str, Any]) -> str:
    """`rows 1,000,000, runs 5`."""
    return ", ".join(
        f"{name.replace('_', ' ')} {value:,}" if isinstance(value, int) else f"{name.replace('_', ' ')} {value}"
        for name, value in report["settings"].items()
    )


def _markdown_of(report: dict[str, Any]) -> Iterator[str]:
    yield f"\n### {report['benchmark']}\n"
    load = report["machine"]["load_average"][0]
    yield f"{settings_line(report)}; {report['machine']['at']}, load average {load:.1f} before.\n"
    for heads, lines in _tables_of(report):
        yield _row(heads)
        yield _row(("---", *["---:"] * (len(heads) - 1)))
        yield from (_row(line) for line in lines)
        yield ""
    yield from (f"- {remark}" for remark in report["remarks"])


def _tables_of(report: dict[str, Any]) -> Iterator[tuple[tuple[str, ...], list[tuple[str, ...]]]]:
    yield FIGURE_HEADS, list(_figure_lines(report))
    if report["bars"]:
        yield BAR_HEADS, list(_bar_lines(report))


def _figure_lines(report: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for figure in report["figures"]:
        name = f"{figure['name']}, {figure['unit']}" + (f" ({figure['note']})" if figure["note"] else "")
        spread = (number(figure[key]) for key in ("median", "low", "high"))
        yield (name, *spread, str(len(figure["runs"])))


def _bar_lines(report: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for bar in report["bars"]:
        unit = "x" if bar["unit"] == "x" else f" {bar['unit']}"
        target = "" if bar["target"] is None else f"{number(bar['target'])}{unit}"
        yield (
            bar["what"],
            f"{number(bar['value'])}{unit}",
            f"{bar['sense']} {number(bar['bar'])}{unit}",
            target,
            "met" if bar["is_met"] else "NOT MET",
        )


def _row(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def _versions(machine: dict[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
