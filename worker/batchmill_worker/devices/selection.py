"""The choice of a worker's devices: `--devices` applied to the machine's devices. Pure.

auto             the GPUs if there are any, else the CPU
all              every GPU and the CPU
cpu              the CPU
cuda:0,2         two GPUs; cuda:0.1 is slice 1 of GPU 0
cuda:0+1,2       one worker over the GPUs 0 and 1, another on 2
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from batchmill.errors import InvalidSettings, did_you_mean
from batchmill_worker.devices.base import DeviceKind

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batchmill_worker.devices.base import Device

AUTO, ALL = "auto", "all"
Group = tuple["Device", ...]
"""The devices of one worker: one, or several GPUs."""

_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_NEAR = re.compile(r"(?:cuda|gpu)?[:\s]*((?:\d+(?:\.\d+)?[+\s]*)+)")


def visible_to(devices: Sequence[Device], cuda_visible_devices: str | None) -> list[Device]:
    """List the devices that a process with this CUDA_VISIBLE_DEVICES may use; None: it is not set, and hides none.

    It is read as CUDA does: numbers and prefixes of UUIDs, up to the first that names nothing. A GPU's number also
    names its slices.
    """
    if cuda_visible_devices is None:
        return list(devices)
    allowed: set[str] = set()
    for word in cuda_visible_devices.split(","):
        named = [device for device in devices if _names(word.strip(), device)]
        if not named:
            break
        allowed.update(device.uuid for device in named)
    return [device for device in devices if device.kind is DeviceKind.CPU or device.uuid in allowed]


def select(text: str, devices: Sequence[Device]) -> list[Group]:
    """Return the groups of devices that `text` names, one for each worker, in its order.

    Raises `InvalidSettings` for a device that does not exist or is named twice, and for text of none of the forms.
    """
    words = [word.strip() for word in text.split(",")]
    gpus: list[Group] = [(device,) for device in devices if device.kind is DeviceKind.CUDA]
    everything: list[Group] = [(device,) for device in devices]
    match words:
        case ["auto"]:
            return gpus or everything
        case ["all"]:
            return everything
    groups = list(_groups(words, {device.name: device for device in devices}, text))
    named = [device.name for group in groups for device in group]
    for name in named:
        if named.count(name) > 1:
            raise _refusal(text, f"{name} is named twice", "For several workers on one device set --slots-per-device.")
    return groups


def _groups(words: Sequence[str], known: dict[str, Device], text: str) -> Iterator[Group]:
    kind = ""  # what a bare number belongs to: "cuda:0,2" is cuda:0 and cuda:2
    for word in words:
        head, colon, rest = word.partition(":")
        if word == DeviceKind.CPU:
            kind = ""
            yield (known[word],)
            continue
        if colon and head == DeviceKind.CUDA:
            kind, word = head, rest
        if not kind:
            raise _unknown(text, word)
        yield _group([part.strip().removeprefix("cuda:") for part in word.split("+")], known, text)


def _group(numbers: Sequence[str], known: dict[str, Device], text: str) -> Group:
    group = tuple(_gpu(number, known, text) for number in numbers)
    if len(group) > 1 and any(device.is_slice for device in group):
        raise _refusal(text, "a process can use one MIG slice only, not several", "Name them with commas, not with +.")
    return group


def _gpu(number: str, known: dict[str, Device], text: str) -> Device:
    if not _NUMBER.fullmatch(number):
        raise _unknown(text, number)
    found = known.get(f"cuda:{number}")
    if found is not None:
        return found
    slices = [name for name, device in known.items() if device.is_slice and device.gpu_number == number]
    if slices:
        raise _refusal(text, f"cuda:{number} is divided into slices", f"Name the slices: {', '.join(slices)}.")
    there = ", ".join(f"{name} ({device.model})" if device.number else name for name, device in known.items())
    raise _refusal(text, f"there is no cuda:{number} here", f"There are: {there}.")


def _unknown(text: str, word: str) -> InvalidSettings:
    near = _NEAR.fullmatch(word.lower())
    if near:
        hint = f"Did you mean 'cuda:{'+'.join(_NUMBER.findall(near[1]))}'?"
    else:
        guess = did_you_mean(word.lower(), (AUTO, ALL, "cpu"))
        hint = f"{guess} " if guess.startswith("Did") else ""
        hint += "Expected auto, all, cpu, or GPUs by number: cuda:0,2 or cuda:0+1 for one worker over both."
    return _refusal(text, f"{word!r} names no device", hint)


def _refusal(text: str, reason: str, hint: str) -> InvalidSettings:
    return InvalidSettings(
        f"BATCHMILL_DEVICES (--devices) is {text!r}, but {reason}.", hint=hint, name="BATCHMILL_DEVICES"
    )


def _names(word: str, device: Device) -> bool:
    if not word or device.kind is DeviceKind.CPU:
        return False
    return word == device.gpu_number or (not word.isdigit() and device.uuid.startswith(word))
