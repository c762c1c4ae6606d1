"""What the leader tells of costs, from the ledger's totals."""

from __future__ import annotations

from datetime import date

from batchmill.jobs.cost import NANO, PARTS, Parts, Spent, Totals
from batchmill.ledger.formats.work import Work
from batchmill_coordinator.metering.costs import MAX_NAMES, begun, cost_metrics

TODAY = date(2030, 2, 3)
PAID = Spent(Parts(2_000_000, 500_000, 250_000, 0, 1, 8_000_000), Parts(useful=3 * NANO, idle=NANO // 2), 7)


def told(totals: Totals, work: Work | None = None) -> dict[str, dict[tuple[str, ...], float]]:
    """By metric, the values by those of the labels."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in cost_metrics(totals, work or Work(), TODAY, "EUR"):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return found


def test_time_is_told_in_seconds_and_money_in_its_unit_part_by_part() -> None:
    found = told(Totals({"acme": PAID}, {("gpu", "embed"): PAID}, {TODAY: PAID}))
    seconds = dict(zip(PARTS, (2.0, 0.5, 0.25, 0.0, 1e-6, 8.0), strict=True))
    money = dict(zip(PARTS, (3.0, 0.0, 0.0, 0.0, 0.5, 0.0), strict=True))
    for name, labels in (("", ("embed", "gpu")), ("tenant_", ("acme",))):
        assert found[f"batchmill_{name}device_seconds_total"] == {(*labels, part): s for part, s in seconds.items()}
        assert found[f"batchmill_{name}cost_total"] == {(*labels, part): cost for part, cost in money.items()}
        assert found[f"batchmill_{name}rows_charged_total"] == {labels: 7}
    assert found["batchmill_device_today_seconds"] == {(part,): s for part, s in seconds.items()}
    assert found["batchmill_cost_today"] == {(part,): cost for part, cost in money.items()}
    assert found["batchmill_currency_info"] == {("EUR",): 1}


def test_a_day_on_which_nothing_was_charged_yet_costs_nothing() -> None:
    found = told(Totals({"acme": PAID}, {("gpu", "embed"): PAID}, {date(2030, 2, 2): PAID}))
    assert set(found["batchmill_cost_today"].values()) == {0.0}
    assert len(found["batchmill_device_today_seconds"]) == len(PARTS)


def test_what_will_be_charged_soon_begins_at_nothing() -> None:
    work = Work.from_hash({b"job pending gpu embed": b"2", b"planned 1 gpu embed": b"1", b"owner - acme": b"2"})
    found = told(Totals({}, {}, {}), work)
    assert found["batchmill_cost_total"] == {("embed", "gpu", part): 0.0 for part in PARTS}
    assert found["batchmill_tenant_rows_charged_total"] == {("acme",): 0.0}


def test_what_was_charged_is_not_begun_again_and_names_have_an_end() -> None:
    names = [f"tenant-{number}" for number in range(2 * MAX_NAMES)]
    assert begun({"tenant-0": PAID}, names[:2]) == {"tenant-0": PAID, "tenant-1": Spent()}
    assert len(begun({"tenant-0": PAID}, names)) == MAX_NAMES
    many = dict.fromkeys(names, PAID)
    assert begun(many, ["another"]) == many
