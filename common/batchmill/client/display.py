"""A job in a notebook: self-contained HTML without scripts or external resources, and the same as text."""

from __future__ import annotations

import sys
from html import escape
from typing import TYPE_CHECKING

from batchmill.wording import dead, pace, progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from batchmill.jobs.status import JobStatus, StageStatus

_COLOURS = {"completed": "#2e7d32", "failed": "#c62828", "cancelled": "#757575", "expired": "#ef6c00"}
_RUNNING = "#1565c0"


def describe(kind: str, job_id: str, status: JobStatus | None) -> str:
    """Describe a job in one line, for `repr`."""
    if status is None:
        return f"<{kind} {job_id}>"
    total = "?" if status.rows_total is None else f"{status.rows_total:,}"
    return f"<{kind} {job_id} {status.title!r} {status.state}: {status.rows_done:,} of {total} rows>"


def mimebundle(kind: str, job_id: str, status: JobStatus | None) -> dict[str, str]:
    """Return the representations that a notebook can choose from."""
    return {"text/plain": as_text(kind, job_id, status), "text/html": as_html(job_id, status)}


def as_text(kind: str, job_id: str, status: JobStatus | None) -> str:
    """Format a job in one line, with details below it if there are any."""
    if status is None:
        return f"<{kind} {job_id}>"
    head = f"<{kind} {job_id} {status.title!r} {status.state}: {progress(status)}>"
    return "\n".join([head, *(f"  {name}: {value}" for name, value in _details(status))])


def as_html(job_id: str, status: JobStatus | None) -> str:
    """Format a job as a small table; all text of users and operators is escaped."""
    if status is None:
        return f"<div><b>{escape(job_id)}</b></div>"
    colour = _COLOURS.get(status.state, _RUNNING)
    title = f"{escape(status.name)} · " if status.name else ""
    rows = "".join(
        f'<tr><td style="text-align:left;opacity:.7">{escape(name)}</td>'
        f'<td style="text-align:left">{escape(value)}</td></tr>'
        for name, value in _details(status)
    )
    return (
        f'<div style="max-width:48em"><div>{title}<b>{escape(status.title)}</b> '
        f'<span style="color:{colour};font-weight:bold">{escape(status.state)}</span> '
        f"<code>{escape(job_id)}</code></div>"
        f"{''.join(_bar(stage, colour) for stage in status.stages)}"
        f"<div>{escape(progress(status))}</div><table>{rows}</table></div>"
    )


def _bar(stage: StageStatus, colour: str) -> str:
    share = 0.0 if stage.share is None else stage.share
    percent = "?" if stage.share is None else f"{share:.0%}"
    return (
        f'<div style="display:flex;align-items:center;gap:.5em"><span>{escape(stage.name)}</span>'
        '<div style="flex:1;background:rgba(128,128,128,.25);border-radius:3px">'
        f'<div style="width:{100 * share:.1f}%;height:.8em;background:{colour};border-radius:3px"></div></div>'
        f"<span>{percent}</span></div>"
    )


def _details(status: JobStatus) -> Iterator[tuple[str, str]]:
    details = (
        ("pace", pace(status)),
        ("failed", dead(status)),
        ("blocked", status.note or ""),
        ("error", status.error.message if status.error else ""),
        ("output", status.output or ""),
    )
    return ((name, " ".join(value.split())) for name, value in details if value)


def live_display(kind: str, job_id: str, status: JobStatus | None) -> Callable[[JobStatus], None]:
    """Show a job below the running cell of a notebook; return what updates it. Elsewhere nothing is shown."""
    if not _in_notebook():
        return _show_nothing
    from IPython.display import display

    handle = display(mimebundle(kind, job_id, status), raw=True, display_id=True)

    def update(status: JobStatus) -> None:
        handle.update(mimebundle(kind, job_id, status), raw=True)

    return update


def _in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook, which has a display that can be updated."""
    interactive = sys.modules.get("IPython")
    shell = interactive.get_ipython() if interactive is not None else None
    return shell is not None and getattr(shell, "kernel", None) is not None


def _show_nothing(_: JobStatus) -> None:
    """Take the place of a display where there is none."""
