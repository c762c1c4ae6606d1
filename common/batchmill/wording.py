"""How numbers, times and the progress of a job read, wherever people meet them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchmill.job import JobStatus


def count(rows: int, noun: str = "row") -> str:
    """`1 row`, `12,345 rows`."""
    return f"{rows:,} {noun}" if rows == 1 else f"{rows:,} {noun}s"


def duration(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min 20 s`, `2 h 05 min`, `3 d 4 h`."""
    if seconds < 10:
        return f"{max(seconds, 0.0):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def progress(status: JobStatus) -> str:
    """`1,000 of 5,000 rows`; what is dead counts as settled and is told besides, as are rows that were not computed."""
    settled = status.rows_done + status.rows_dead
    total = "?" if status.rows_total is None else f"{status.rows_total:,}"
    about = "about " if status.rows_total_is_estimate else ""
    counts = {"dead": status.rows_dead, "from the cache": status.rows_cached}
    besides = ", ".join(f"{rows:,} {what}" for what, rows in counts.items() if rows)
    return f"{settled:,} of {about}{total} rows{f' ({besides})' if besides else ''}"


def pace(status: JobStatus) -> str:
    """`812 rows/s, 12 s left (9.1 s to 15 s)`, as far as it is known."""
    known = []
    if status.rows_per_second is not None:
        known.append(f"{status.rows_per_second:,.0f} rows/s")
    if status.eta_s is not None and not status.is_final:
        known.append(f"{duration(status.eta_s)} left{_range(status)}")
    return ", ".join(known)


def dead(status: JobStatus) -> str:
    """`ValueError 12, too_large 1`: the dead rows by error, the most frequent first; "" without any."""
    return ", ".join(f"{kind} {number:,}" for kind, number in status.dead_by_error.items())


def _range(status: JobStatus) -> str:
    if status.eta_low_s is None or status.eta_high_s is None:
        return ""
    low, high = duration(status.eta_low_s), duration(status.eta_high_s)
    return "" if low == high else f" ({low} to {high})"
