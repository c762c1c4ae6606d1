"""What is reported of the models that a service loads as it starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchmill.client.connection.service import ServiceAddress
from batchmill.client.connection.transport import Transport
from batchmill.embedded import model_states
from batchmill.embedded.model_states import follow_models
from batchmill.errors import ServiceUnavailable

if TYPE_CHECKING:
    import pytest

ADDRESS = ServiceAddress("http://127.0.0.1:1", "secret")


def model(name: str, state: str, error: str | None = None) -> dict[str, Any]:
    return {"id": name, "state": state, "error": error}


def reported(monkeypatch: pytest.MonkeyPatch, *answers: list[dict[str, Any]]) -> list[tuple[str, str | None]]:
    """Return what is reported of the models "a" and "b" if the service gives these answers, and then ends."""
    left, found = list(answers), list[tuple[str, str | None]]()

    async def answer(*_: Any, **__: Any) -> Any:
        if not left:
            raise ServiceUnavailable("it has ended.")
        return {"data": left.pop(0)}

    monkeypatch.setattr(Transport, "json", answer)
    monkeypatch.setattr(model_states, "INTERVAL_S", 0)
    follow_models(ADDRESS, ["a", "b"], lambda name, error: found.append((name, error)))
    assert not left
    return found


def test_each_model_is_reported_once_when_it_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    both = [model("a", "ready"), model("b", "ready"), model("other", "loading")]
    found = reported(monkeypatch, [model("a", "loading"), model("b", "idle")], [both[0], model("b", "loading")], both)
    assert found == [("a", None), ("b", None)]


def test_a_failure_is_reported_once_and_the_model_when_it_is_ready_after_all(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = [model("a", "ready"), model("b", "failed", "no memory.")]
    found = reported(monkeypatch, failed, failed, [failed[0], model("b", "loading")], failed)
    assert found == [("a", None), ("b", "no memory.")]
    found = reported(monkeypatch, failed, [failed[0], model("b", "ready")])
    assert found == [("a", None), ("b", "no memory."), ("b", None)]
