"""Which devices `--devices` names, and what it says when it names none."""

from __future__ import annotations

import pytest

from batchmill.errors import InvalidSettings
from batchmill_worker.devices.base import Device, DeviceKind
from batchmill_worker.devices.cpu import CPU
from batchmill_worker.devices.selection import select, visible_to


def gpu(number: str) -> Device:
    return Device(DeviceKind.CUDA, number, f"GPU-{number}-a", "NVIDIA L4", 24 << 30)


def mig_slice(number: str) -> Device:
    return Device(DeviceKind.CUDA, number, f"MIG-{number}-b", "NVIDIA A100 MIG 1g.5gb", 5 << 30)


GPUS = [gpu("0"), gpu("1"), gpu("2"), CPU]
SLICED = [gpu("0"), mig_slice("1.0"), mig_slice("1.2"), CPU]


def names(text: str, devices: list[Device]) -> list[str]:
    return ["+".join(device.name for device in group) for group in select(text, devices)]


@pytest.mark.parametrize(
    ("text", "devices", "expected"),
    [
        ("auto", GPUS, ["cuda:0", "cuda:1", "cuda:2"]),
        ("auto", [CPU], ["cpu"]),
        ("auto", SLICED, ["cuda:0", "cuda:1.0", "cuda:1.2"]),
        ("all", GPUS, ["cuda:0", "cuda:1", "cuda:2", "cpu"]),
        ("all", [CPU], ["cpu"]),
        ("cpu", GPUS, ["cpu"]),
        ("cuda:0,2", GPUS, ["cuda:0", "cuda:2"]),
        ("cuda:2, cuda:0", GPUS, ["cuda:2", "cuda:0"]),
        ("cuda:0+1", GPUS, ["cuda:0+cuda:1"]),
        ("cuda:2+0,1", GPUS, ["cuda:2+cuda:0", "cuda:1"]),
        ("cuda:0+cuda:1", GPUS, ["cuda:0+cuda:1"]),
        ("cuda:1,cpu", GPUS, ["cuda:1", "cpu"]),
        ("cuda:1.2,0", SLICED, ["cuda:1.2", "cuda:0"]),
    ],
)
def test_a_selection_names_its_devices_in_its_order(text: str, devices: list[Device], expected: list[str]) -> None:
    assert names(text, devices) == expected


@pytest.mark.parametrize(
    ("text", "devices", "said"),
    [
        ("cuda:5", [*GPUS[:2], CPU], r"no cuda:5 here. There are: cuda:0 \(NVIDIA L4\), cuda:1 \(NVIDIA L4\), cpu\."),
        ("cuda:0", [CPU], r"no cuda:0 here. There are: cpu\."),
        ("cuda:1", SLICED, r"cuda:1 is divided into slices. Name the slices: cuda:1.0, cuda:1.2\."),
        ("cuda:1.0+1.2", SLICED, "one MIG slice only.*commas"),
        ("cuda:0,0", GPUS, "cuda:0 is named twice.*--slots-per-device"),
        ("cuda:0+1,1", GPUS, "cuda:1 is named twice"),
        ("cpu,cpu", GPUS, "cpu is named twice"),
        ("gpu:0", GPUS, r"'gpu:0' names no device. Did you mean 'cuda:0'\?"),
        ("gpu1", GPUS, r"Did you mean 'cuda:1'\?"),
        ("0", GPUS, r"Did you mean 'cuda:0'\?"),
        ("0+1", GPUS, r"Did you mean 'cuda:0\+1'\?"),
        ("CUDA:2", GPUS, r"Did you mean 'cuda:2'\?"),
        ("atuo", GPUS, r"Did you mean 'auto'\?.*Expected auto, all, cpu"),
        ("cuda", GPUS, "'cuda' names no device.*cuda:0,2"),
        ("cpu:0", GPUS, "names no device"),
        ("cuda:", GPUS, "'' names no device"),
        ("cuda:0,", GPUS, "'' names no device"),
        ("cuda:-1", GPUS, "'-1' names no device"),
        ("auto,cpu", GPUS, "'auto' names no device"),
        ("", GPUS, "'' names no device"),
    ],
)
def test_a_wrong_selection_is_refused_with_what_there_is(text: str, devices: list[Device], said: str) -> None:
    with pytest.raises(InvalidSettings, match=said) as caught:
        select(text, devices)
    assert caught.value.details["name"] == "BATCHMILL_DEVICES"


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        (None, ["cuda:0", "cuda:1.0", "cuda:1.2", "cpu"]),
        ("", ["cpu"]),
        ("-1", ["cpu"]),
        ("0", ["cuda:0", "cpu"]),
        ("1", ["cuda:1.0", "cuda:1.2", "cpu"]),
        ("GPU-0", ["cuda:0", "cpu"]),
        ("MIG-1.2-b, 0", ["cuda:0", "cuda:1.2", "cpu"]),
        ("0,7,1", ["cuda:0", "cpu"]),
    ],
)
def test_devices_that_the_environment_hides_are_not_there(variable: str | None, expected: list[str]) -> None:
    assert [device.name for device in visible_to(SLICED, variable)] == expected
