"""How a job shows itself in a notebook."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

from IPython.core.formatters import DisplayFormatter

from batchmill import AsyncClient, Client
from batchmill.client.display import as_html, as_text
from batchmill.jobs.job import JobError, JobState
from batchmill.jobs.status import JobStatus, StageStatus

if TYPE_CHECKING:
    from support.live_service import LiveService

VOID = {"br", "img", "hr"}


def status(**changes: Any) -> JobStatus:
    fields = {
        "id": "job-1",
        "state": JobState.RUNNING,
        "operator": "embed",
        "rows_total": 2000,
        "rows_done": 990,
        "rows_dead": 10,
        "dead_by_error": {"ValueError": 7, "too_large": 3},
        "rows_per_second": 100.0,
        "eta_s": 10.0,
        "eta_low_s": 8.0,
        "eta_high_s": 15.0,
        "stages": [StageStatus(operator="embed", rows_total=2000, rows_done=990, rows_dead=10, share=0.5)],
        "created_at": 1.0,
    }
    return JobStatus(**{**fields, **changes})


class Elements(HTMLParser):
    """What a piece of HTML is made of."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[str] = []
        self.text, self.depth = "", 0
        self.feed(html)
        assert self.depth == 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.depth += tag not in VOID
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert tag in self.tags
        self.depth -= 1

    def handle_data(self, data: str) -> None:
        self.text += data


def test_ipython_shows_the_present_progress_of_a_job_as_html_and_as_text(client: Client, service: LiveService) -> None:
    service.holds_jobs = True
    job = client.submit("embed", rows=[{"text": "a"}], params={"model": "m"})
    service.change(job.id, rows_total=2000, rows_done=990, rows_dead=10, eta_s=10.0, eta_low_s=8.0, eta_high_s=15.0)
    data, _ = DisplayFormatter().format(job)
    assert {"text/plain", "text/html"} <= set(data)
    for shown in data["text/plain"], Elements(data["text/html"]).text:
        assert job.id in shown
        assert "1,000 of 2,000 rows (10 failed)" in shown
        assert "10 s left (8.0 s to 15 s)" in shown


def test_a_job_whose_service_is_gone_shows_what_was_seen_last(client: Client, service: LiveService) -> None:
    service.holds_jobs = True
    job = client.submit("embed", rows=[{"text": "a"}], params={"model": "m"})
    service.begun(job.id)
    job.status()
    client.close()
    assert job.id in job._repr_html_()
    assert "running" in job._repr_mimebundle_()["text/plain"]


def test_a_job_of_the_asyncio_client_shows_what_it_knows(service: LiveService) -> None:
    job = AsyncClient(service.url, service.token).job("job-7")
    assert job._repr_mimebundle_() == {"text/plain": "<AsyncJob job-7>", "text/html": "<div><b>job-7</b></div>"}
    job.latest = status()
    assert "1,000 of 2,000 rows" in job._repr_html_()


def test_what_users_and_operators_wrote_cannot_become_html() -> None:
    evil = "<script>alert(1)</script><img src=x onerror=y>\"'&"
    shown = Elements(
        as_html(
            evil,
            status(
                name=evil,
                operator=evil,
                state=JobState.FAILED,
                note=evil,
                output=evil,
                dead_by_error={evil: 1},
                error=JobError(code="c", message=evil),
                stages=[StageStatus(operator=evil)],
            ),
        )
    )
    assert set(shown.tags) <= {"div", "span", "b", "code", "table", "tr", "td"}
    assert set(shown.attributes) == {"style"}
    assert shown.text.count(evil) >= 7


def test_the_share_of_each_stage_is_a_bar_and_an_unknown_one_is_empty() -> None:
    stages = [StageStatus(operator="chunk", share=0.25), StageStatus(operator="embed")]
    html = as_html("job-1", status(stages=stages))
    assert "width:25.0%" in html
    assert "width:0.0%" in html
    assert "25%" in Elements(html).text


def test_the_text_is_one_line_and_what_there_is_to_tell_below() -> None:
    assert as_text("Job", "job-1", status(note="no worker\nis there")).splitlines() == [
        "<Job job-1 'embed' running: 1,000 of 2,000 rows (10 failed)>",
        "  pace: 100 rows/s, 10 s left (8.0 s to 15 s)",
        "  failed: ValueError 7, too_large 3",
        "  blocked: no worker is there",
    ]
