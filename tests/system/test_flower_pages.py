"""Flower's pages in a real browser over a real service; FLOWER_SCREENSHOTS=FOLDER keeps pictures of them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from batchmill.jobs.job import RetryPolicy
from support.flower_stack import USER, FlowerStack, flower_stack
from support.waiting import GRACE_S, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    import batchmill


FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-dev-shm-usage",
]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, valkey_url: str) -> Iterator[FlowerStack]:
    with flower_stack(tmp_path_factory.mktemp("pages"), valkey_url, "pages:") as started:
        yield started


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium")
    assert path is not None, "this test needs Chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture
def page(browser: Browser, stack: FlowerStack) -> Iterator[Page]:
    name, _, password = USER.partition(":")
    context = browser.new_context(
        base_url=stack.flower_url,
        http_credentials={"username": name, "password": password},
        viewport={"width": 1500, "height": 560},
    )
    context.set_default_timeout(GRACE_S * 1000)
    expect.set_options(timeout=GRACE_S * 1000)
    opened = context.new_page()
    complaints: list[str] = []
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    yield opened
    context.close()
    assert complaints == []


@pytest.fixture(scope="module")
def job(stack: FlowerStack, tmp_path_factory: pytest.TempPathFactory) -> batchmill.Job:
    """A job whose shard is tried twice, and one before it that loses all its rows."""
    lost = stack.client.submit("picky", rows=[{"id": n} for n in (10, 20)], name="orders")
    assert list(lost.results()) == []
    log = str(tmp_path_factory.mktemp("log"))
    tried = stack.client.submit(
        "flaky",
        rows=[{"id": n} for n in range(6)],
        params={"log": log},
        retry=RetryPolicy(backoff_s=0.01),
        name="nightly",
    )
    assert len(list(tried.results())) == 6
    until(lambda: any(task["state"] == "SUCCESS" for task in stack.tasks(tried)), "the last event")
    return tried


def picture(page: Page, name: str) -> None:
    folder = os.environ.get("FLOWER_SCREENSHOTS")
    if folder:
        page.screenshot(path=Path(folder) / f"flower-{name}.png")


def test_the_workers_page_names_workers_by_device(page: Page, stack: FlowerStack, job: batchmill.Job) -> None:
    (worker,) = stack.client.workers()
    page.goto("/workers")
    expect(page.get_by_role("link", name=worker.name)).to_be_visible()
    expect(page.get_by_text("Online").first).to_be_visible()
    picture(page, "workers")
    assert job.status().is_final


def test_the_tasks_page_shows_operator_job_shard_and_state_of_each_attempt(page: Page, job: batchmill.Job) -> None:
    page.goto("/tasks")
    for text in ("batchmill.flaky", f"#2 shard 0 · {job.status().name}", "RETRY", "SUCCESS", "FAILURE"):
        expect(page.get_by_text(text).first).to_be_visible()
    picture(page, "tasks")


def test_a_tasks_page_tells_what_came_of_it_and_offers_nothing_to_press(
    page: Page, stack: FlowerStack, job: batchmill.Job
) -> None:
    done = next(task for task in stack.tasks(job) if task["state"] == "SUCCESS")
    page.goto(f"/task/{done['uuid']}")
    for text in ("batchmill.flaky", f"#3 shard 0 · nightly · {job.id}", "6 rows", "cpu0@"):
        expect(page.get_by_text(text).first).to_be_visible()
    expect(page.get_by_role("button", name="Revoke")).to_have_count(0)
    picture(page, "task")
