"""What a line of a log carries, and what never stands in one."""

from __future__ import annotations

import io
import json
import logging
import threading
from typing import TYPE_CHECKING, Any

import pytest

from batchmill.jobs.shard import ShardId, ShardRef
from batchmill.settings import CoordinatorSettings, FlowerSettings, ServiceSettings
from batchmill.telemetry.log_context import about, about_attempt, fields
from batchmill.telemetry.logs import ConsoleFormatter, JsonFormatter, announce, configure_logging
from batchmill_worker.runtime.side_executor import side_executor

if TYPE_CHECKING:
    from collections.abc import Iterator

REF = ShardRef("job-1", 0, ShardId((17, 0)), 2)
OURS = {"job": "job-1", "stage": 0, "shard": "17.0", "attempt": 2}


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """Leaves the logging of the test run as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)


def lines(
    formatter: logging.Formatter, message: str = "it %s", *args: Any, error: Exception | None = None
) -> list[str]:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(formatter)
    info = (type(error), error, error.__traceback__) if error else None
    handler.handle(logging.LogRecord("some.logger", logging.WARNING, "", 1, message, args or ("works",), info))
    return out.getvalue().splitlines()


def raised(message: str) -> Exception:
    try:
        raise ValueError(message)
    except ValueError as error:
        return error


def test_a_line_for_people_names_job_shard_attempt_and_worker_before_its_message() -> None:
    with about_attempt(REF):
        (line,) = lines(ConsoleFormatter({"worker": "cpu0@here"}, ()))
    assert line.endswith(" WARNING some.logger [job=job-1 stage=0 shard=17.0 attempt=2 worker=cpu0@here]: it works")
    (line,) = lines(ConsoleFormatter({}, ()))
    assert line.endswith(" WARNING some.logger: it works")


def test_a_line_for_machines_is_one_object_with_the_same_and_its_traceback() -> None:
    with about_attempt(REF):
        (line,) = lines(JsonFormatter({"worker": "cpu0@here"}, ()), "two\nlines%s", "", error=raised("no"))
    told = json.loads(line)
    assert told.pop("time").endswith("+00:00")
    assert told.pop("error").endswith("ValueError: no")
    assert told == OURS | {
        "level": "warning",
        "logger": "some.logger",
        "message": "two\nlines",
        "worker": "cpu0@here",
    }


@pytest.mark.parametrize("kind", [ConsoleFormatter, JsonFormatter])
def test_no_secret_of_the_settings_is_written_whoever_logs_it(kind: type[ConsoleFormatter | JsonFormatter]) -> None:
    url, tokens = "redis://:pass%2Fword@host/0", ("tok-en/1", "token-two")
    coordinator = CoordinatorSettings(tokens=tokens, metrics_token="scraper", redis_url=url)  # noqa: S106  # made up
    flower = FlowerSettings(flower_users=("me:flower:secret",))
    secrets = (*coordinator.secret_values(), *flower.secret_values())
    assert secrets == ("pass%2Fword", "pass/word", "tok-en/1", "token-two", "scraper", "flower:secret")
    text = "tok-en/1 token-two redis://:pass%2Fword@host/0 me:flower:secret scraper"
    with about(job="token-two"):
        written = "\n".join(lines(kind({}, secrets), "said %s", text, error=raised(text)))
    assert all(secret not in written for secret in (*secrets, "pass%2Fword"))
    assert "***" in written


def test_what_is_said_in_the_threads_beside_the_device_is_about_the_same_attempt() -> None:
    seen: list[tuple[str, dict[str, Any]]] = []

    def look() -> None:
        seen.append((threading.current_thread().name, dict(fields())))

    with about_attempt(REF), side_executor("op", overlaps=True) as side:
        side.submit(look).result()
    assert seen[0][0].startswith("op-side")
    assert seen[0][1] == OURS
    assert fields() == {}


def test_contexts_add_up_and_end() -> None:
    with about(role="planner"):
        with about(job="job-1"):
            assert fields() == {"role": "planner", "job": "job-1"}
        assert fields() == {"role": "planner"}


def test_libraries_warnings_and_dying_threads_speak_in_the_same_form(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.excepthook", None)
    monkeypatch.setattr("threading.excepthook", threading.excepthook)
    settings = ServiceSettings(log_format="json", log_level="info")
    configure_logging(settings, worker="cpu0@here")
    logging.getLogger("celery.worker").warning("celery speaks")
    logging.getLogger("uvicorn.error").info("too much detail")
    logging.getLogger("py.warnings").warning("a warning")
    thread = threading.Thread(target=lambda: json.loads("{"), name="fetcher")
    thread.start()
    thread.join()
    announce(settings, "coordinator", "serving http://here")
    told = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [one["message"] for one in told] == [
        "celery speaks",
        "a warning",
        "an error ends thread fetcher",
        "serving http://here",
    ]
    assert all(one["worker"] == "cpu0@here" for one in told)
    assert "JSONDecodeError" in told[2]["error"]


def test_who_starts_a_service_is_told_plainly_where_people_read_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    announce(ServiceSettings(), "coordinator", "serving http://here")
    assert capsys.readouterr().err == "coordinator: serving http://here\n"
