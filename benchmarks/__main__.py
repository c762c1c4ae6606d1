"""`python -m benchmarks`: runs the benchmarks, and writes what they find to `benchmarks/results`."""

from __future__ import annotations

import signal
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchmarks import chart, figures, machine, tables
from benchmarks import compare as comparison
from benchmarks.scale import FULL, QUICK, Scale

if TYPE_CHECKING:
    from types import FrameType

NAMES = (
    "echo_million",
    "one_row_latency",
    "many_jobs",
    "memory",
    "recovery",
    "resume",
    "chain",
    "chain_peers",
    "chain_embed",
    "vectors",
    "knn",
    "embed",
    "plan",
    "generate",
    "lane",
    "stream",
)
ON_REQUEST = ("embed_peers", "soak")
"""Not among those that run unless some are named."""


@click.command()
@click.option("--only", multiple=True, type=click.Choice(NAMES + ON_REQUEST), help="Run only this one; repeatable.")
@click.option(
    "--runs",
    type=click.IntRange(min=1),
    help="How often each is measured.  [default: 5, memory, recovery, resume and embed 3]",
)
@click.option("--quick", is_flag=True, help="Small sizes: shows that everything works; its figures mean little.")
@click.option("--markdown", is_flag=True, help="Run nothing; print the figures of the last full run as Markdown.")
@click.option(
    "--compare",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Run nothing; compare the last figures with those in a folder. Fails if one is far slower.",
)
def main(only: tuple[str, ...], runs: int | None, quick: bool, markdown: bool, compare: Path | None) -> None:
    """Measure Batchmill beside its peers, on this machine, in this run."""
    if compare is not None:
        sys.exit(_compare(compare, figures.RESULTS / "quick" if quick else figures.RESULTS))
    if markdown:
        click.echo(tables.markdown(figures.read_all(figures.RESULTS)))
        return
    scale = QUICK if quick else FULL
    if runs is not None:
        scale = scale.with_runs(runs)
    _end_in_order(scale.limit_s)
    failed = [name for name in only or NAMES if not _succeeds(name, scale, quick=quick)]
    if failed:
        sys.exit(f"benchmarks: failed: {', '.join(failed)}")


def _compare(earlier: Path, latest: Path) -> int:
    before, after = figures.read_all(earlier), figures.read_all(latest)
    comparable = comparison.is_comparable(before, after)
    found = list(comparison.changes(before, after)) if comparable else []
    click.echo(comparison.markdown(found, comparable=comparable), nl=False)
    return int(any(one.is_failure for one in found))


def _succeeds(name: str, scale: Scale, *, quick: bool) -> bool:
    try:
        _run(name, scale, quick=quick)
    except Exception:  # noqa: BLE001  # printed completely; the other benchmarks still run
        traceback.print_exc()
        return False
    return True


def _run(name: str, scale: Scale, *, quick: bool) -> None:
    facts = machine.facts()
    click.echo(f"{name} …", err=True)
    report = _measure(name, scale).to_json(facts | {"load_average_after": machine.facts()["load_average"]})
    folder = figures.RESULTS / "quick" if quick else figures.RESULTS
    path = figures.write(report, folder)
    tables.show(report)
    if name == "embed":
        click.echo(f"drawn to {chart.draw(report, folder if quick else chart.DOCS)}", err=True)
    click.echo(f"written to {path}", err=True)


def _measure(name: str, scale: Scale) -> figures.Report:
    module = import_module(f"benchmarks.{name}")  # only the one: the others' peers and stores need not be installed
    report: figures.Report = module.measure(scale)
    return report


def _end_in_order(limit_s: float) -> None:
    """Let a signal, and the end of the time, unwind everything, so that no process and no file is left behind."""

    def leave(number: int, _: FrameType | None) -> Any:
        reason = f"not done within {limit_s:.0f} s" if number == signal.SIGALRM else signal.Signals(number).name
        sys.exit(f"benchmarks: stopped: {reason}")

    for number in (signal.SIGALRM, signal.SIGTERM):
        signal.signal(number, leave)
    signal.setitimer(signal.ITIMER_REAL, limit_s)


main(prog_name="python -m benchmarks")
