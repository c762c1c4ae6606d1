"""The how-to pages and the troubleshooting page: their commands are run, and print what the pages say."""

from __future__ import annotations

import ast
import gzip
import io
import json
import re
import sqlite3
import subprocess
import tarfile
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.sandbox import Block, Sandbox

HOW_TO = "docs/how-to/"
TROUBLESHOOTING = "docs/troubleshooting.md"
STARTED = "`batchmill down` stops it"
NEWEST_JOB = "JOB=$(batchmill jobs --limit 1 2>/dev/null | tail -n 1 | cut -f 1)"
GRACE_S = 60.0


def write(sandbox: Sandbox, command: Callable[[str, str], str], page: str, *names: str) -> None:
    for name in names:
        (sandbox.folder / name).write_text(command(page, name))


def test_a_folder_is_embedded_and_its_output_is_read(sandbox: Sandbox, command: Callable[[str, str], str]) -> None:
    page = f"{HOW_TO}embed-a-folder.md"
    write(sandbox, command, page, "read_vectors.py", "embed_folder.py")
    sandbox.start(command(page, "embed service"), writes=STARTED)

    assert ".manifest.json" in sandbox.run(command(page, "embed"), timeout_s=200)
    assert sandbox.run("python read_vectors.py") == "3 rows: id, text, embedding\n"
    assert sandbox.run("python embed_folder.py", timeout_s=200) == "3\n"


def test_a_stream_gives_the_rows_that_are_sent_and_windows_give_one_row_for_each_user_and_minute(
    sandbox: Sandbox, command: Callable[[str, str], str]
) -> None:
    for name in ("streams", "windows"):
        (sandbox.folder / f"{name}.py").write_text(command(f"{HOW_TO}{name}.md", name))

    assert sandbox.run("python streams.py", timeout_s=100) == "ada /\nbob /about\ncompleted\n"
    printed = sandbox.run("python windows.py", timeout_s=100).splitlines()
    assert printed[0] == "0 2030-03-17 17:47:00+00:00 20 0.285"
    assert len(printed) == 15


def test_a_job_is_planned_submitted_and_compared_with_its_plan(
    sandbox: Sandbox, command: Callable[[str, str], str]
) -> None:
    page = f"{HOW_TO}plans.md"
    sandbox.start(command(page, "plans service"), writes=STARTED)

    printed = sandbox.run(command(page, "plans"), timeout_s=200)
    assert "of which" in printed
    assert "20000 rows done" in printed.replace(",", "")
    assert printed.splitlines()[-1].split("\t")[2] == "20,000"


def test_trials_are_listed(sandbox: Sandbox, command: Callable[[str, str], str]) -> None:
    page = f"{HOW_TO}trials.md"
    sandbox.start(command(page, "trials service"), writes=STARTED)

    assert sandbox.run(command(page, "trials")).count("SETTING") == 2


def _tar(number: int) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name in (f"dir/{number}a.txt", f"dir/{number}a.seg.png", f"{number}b.txt"):
            member = tarfile.TarInfo(name)
            member.size = len(name)
            archive.addfile(member, io.BytesIO(name.encode()))
    return packed.getvalue()


def test_samples_of_an_archive_and_rows_of_a_query_become_rows(
    sandbox: Sandbox, command: Callable[[str, str], str]
) -> None:
    write(sandbox, command, f"{HOW_TO}other-inputs.md", "tar_rows.py", "query_rows.py")
    (sandbox.folder / "archives").mkdir()
    (sandbox.folder / "archives" / "0.tar").write_bytes(_tar(0))
    (sandbox.folder / "archives" / "1.tar.gz").write_bytes(gzip.compress(_tar(1)))
    rows = [ast.literal_eval(line) for line in sandbox.run("python tar_rows.py", timeout_s=100).splitlines()]
    assert rows == [
        row
        for number in (0, 1)
        for row in (
            {
                "key": f"dir/{number}a",
                "txt": f"dir/{number}a.txt".encode(),
                "seg.png": f"dir/{number}a.seg.png".encode(),
            },
            {"key": f"{number}b", "txt": f"{number}b.txt".encode(), "seg.png": None},
        )
    ]

    with sqlite3.connect(sandbox.folder / "articles.sqlite") as database:
        database.execute("CREATE TABLE articles (id INTEGER, title TEXT, year INTEGER)")
        database.executemany("INSERT INTO articles VALUES (?, ?, ?)", [(2, "b", 2024), (1, "a", 2025), (3, "c", 2023)])
    found = sandbox.run("python query_rows.py", timeout_s=100)
    assert ast.literal_eval(found) == [{"id": 1, "title": "a"}, {"id": 2, "title": "b"}]


def test_files_are_parsed_and_chunked_and_a_wrong_name_is_a_dead_letter(
    sandbox: Sandbox, command: Callable[[str, str], str]
) -> None:
    page = f"{HOW_TO}parse-and-chunk.md"
    write(sandbox, command, page, "read_chunks.py")
    sandbox.start(command(page, "parse service"), writes=STARTED)

    output = sandbox.run(command(page, "parse"), timeout_s=200)
    assert "is named .pdf, but its content is html" in output
    shown = [line.removeprefix("# ") for line in command(page, "read_chunks.py").splitlines() if line.startswith("# ")]
    assert sandbox.run("python read_chunks.py").splitlines() == shown


def test_an_operator_is_tested_without_a_service_then_with_one_then_loaded(
    sandbox: Sandbox, command: Callable[[str, str], str]
) -> None:
    page = f"{HOW_TO}own-operator.md"
    write(sandbox, command, page, "keywords.py", "test_keywords.py", "try_keywords.py")

    assert "4 passed" in sandbox.run(command(page, "test keywords"))
    tried = sandbox.run("python try_keywords.py")
    assert tried == "[{'text': 'Interest rates rose.', 'keywords': ['Interest', 'rates']}]\n{'RowError': 1}\n"
    sandbox.start(command(page, "own operator service"), writes=STARTED)
    assert "keywords" in sandbox.run("batchmill operators")


def test_failed_rows_are_listed_edited_and_replayed(sandbox: Sandbox, command: Callable[[str, str], str]) -> None:
    page = f"{HOW_TO}failed-rows.md"
    write(sandbox, command, page, "number.py", "replay.py")
    sandbox.start(command(page, "failed rows service"), writes=STARTED)

    output = sandbox.run(command(page, "failed rows"))
    assert "ValueError" in output
    assert output.endswith('{"text":"1","number":1}\n{"text":"2","number":2}\n{"text":"3","number":3}\n'), output
    assert sandbox.run("python replay.py").endswith("[1, 2]\n")


def test_paused_and_cancelled_work_is_resumed(sandbox: Sandbox, command: Callable[[str, str], str]) -> None:
    page = f"{HOW_TO}resume.md"
    # A command takes long to start on a busy machine: the second half of the rows waits until the job is cancelled.
    pace, cancel = "0.02 * len(rows)", 'batchmill cancel "$JOB"\n'
    operator, commands = command(page, "slow_rows.py"), command(page, "pause")
    assert (operator.count(pace), commands.count(cancel)) == (1, 1)
    waits = f"{pace} if rows[0]['id'] <= 1000 or os.path.exists({str(sandbox.folder / 'is-cancelled')!r}) else 2"
    (sandbox.folder / "slow_rows.py").write_text(f"import os\n{operator.replace(pace, waits)}")
    sandbox.start(command(page, "resume service"), writes=STARTED)

    printed = sandbox.run(commands.replace(cancel, f"{cancel}touch is-cancelled\n"), timeout_s=250)
    assert "paused" in printed
    assert "cancelled" in printed
    assert "completed: 2,000 rows done" in printed
    status = json.loads(sandbox.run("batchmill jobs --limit 1 --json"))
    assert status["resumed_from"].startswith("job-")

    lines = sandbox.run(command(page, "resume")).splitlines()
    jobs = {line.split()[0] for line in lines[-3:] if line.startswith("job-")}
    assert len(jobs) == 1  # the same key gave the same job


def test_described_devices_stand_for_gpus(sandbox: Sandbox, command: Callable[[str, str], str]) -> None:
    sandbox.start(command(f"{HOW_TO}gpus.md", "gpus"), writes=STARTED)

    workers = sandbox.run("batchmill workers")
    assert "gpu0@" in workers
    assert "gpu1@" in workers


def test_rows_are_put_into_a_store_and_searched(sandbox: Sandbox, command: Callable[[str, str], str]) -> None:
    sandbox.start("batchmill up", writes=STARTED)

    output = sandbox.run(command(f"{HOW_TO}vector-stores.md", "sink"))
    assert "completed: 3 rows done" in output
    assert "cities\t3\t2\tnone\t-" in output
    assert [line.partition("city=")[2] for line in output.splitlines()[-2:]] == ["Oslo", "Bergen"]


def test_near_duplicates_are_found(sandbox: Sandbox, command: Callable[[str, str], str]) -> None:
    page = f"{HOW_TO}near-duplicates.md"
    write(sandbox, command, page, "show_duplicates.py")
    sandbox.start(command(page, "dedup service"), writes=STARTED)

    assert "completed: 3 rows done" in sandbox.run(command(page, "dedup"), timeout_s=200)
    shown = [line[2:] for line in command(page, "show_duplicates.py").splitlines() if line.startswith("# ")]
    assert sandbox.run("python show_duplicates.py").splitlines() == shown


def test_costs_are_shown_in_the_currency_and_a_budget_is_accepted(
    sandbox: Sandbox, command: Callable[[str, str], str]
) -> None:
    page = f"{HOW_TO}costs.md"
    sandbox.start(command(page, "costs service"), writes=STARTED)

    output = sandbox.run(command(page, "costs"))
    assert "EUR per 1,000 rows" in output
    assert "completed: 1,000 rows done" in output


def test_every_message_of_the_troubleshooting_page_is_printed_by_the_command_above_it(
    sandbox: Sandbox, command: Callable[[str, str], str], blocks: Callable[[str], list[Block]]
) -> None:
    write(sandbox, command, TROUBLESHOOTING, "heavy.py")
    (sandbox.folder / "docs.jsonl").write_text('{"id": 1, "text": "one"}\n{"id": 2, "text": "two"}\n')
    sandbox.env["HF_HUB_OFFLINE"] = "1"  # the hub would be tried for minutes
    sandbox.start("batchmill up --operators heavy", writes=STARTED)
    page = blocks(TROUBLESHOOTING)

    shown = 0
    for block, following in zip(page, [*page[1:], None], strict=True):
        if block.kind != "sh" or block.run is None:
            continue
        if following is None or following.kind != "text":
            sandbox.run(block.text)
            continue
        shown += 1
        expect(sandbox, block, following.text)
    assert shown >= 12


def expect(sandbox: Sandbox, block: Block, text: str) -> None:
    """Run a block until it prints the lines of the text, in order; `…` means anything."""
    lines = [".*".join(map(re.escape, line.split("…"))) for line in text.splitlines()]
    pattern = re.compile(r"[\s\S]*".join(lines))
    ends_at = time.monotonic() + GRACE_S
    while True:
        printed = printed_by(sandbox, block.text)
        if pattern.search(printed):
            return
        assert time.monotonic() < ends_at, f"{block.text}\nprinted\n{printed}\nand not\n{text}"


def printed_by(sandbox: Sandbox, text: str) -> str:
    """What a block writes to both outputs, whatever its exit code. `$JOB` is the newest job."""
    done = subprocess.run(
        ["bash", "-c", f"{NEWEST_JOB}\n{text}"],
        cwd=sandbox.folder,
        env=sandbox.env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=GRACE_S * 3,
    )
    return done.stdout + done.stderr
