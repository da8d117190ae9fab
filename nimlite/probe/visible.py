"""Which GPUs CUDA shows to a process, by CUDA_VISIBLE_DEVICES.

The rules are those of the CUDA programming guide, "CUDA environment variables": a list of numbers,
or of UUIDs or their beginnings; it also gives the order; and it ends before its first entry that is
no device. What is not written there was seen with driver 580 on an H200: the first characters
decide between numbers and UUIDs for the whole list, digits of either case count, what follows a
number or a UUID doesn't, and with a device named twice CUDA does not start.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

_NUMBER = re.compile(r"[ \t\n\v\f\r]*([+-]?[0-9]+)")
"""As C's strtol reads."""
_UUID = re.compile(r"(?:GPU-|MIG-(?:GPU-)?)[0-9a-fA-F][0-9a-fA-F/-]*")
_UUID_LENGTH = len("GPU-00000000-0000-0000-0000-000000000000")


@dataclass(frozen=True, slots=True)
class Visible:
    """What a value of the variable lets through."""

    order: tuple[int, ...]
    """Positions in the list of all devices, in the order that the process sees."""
    reason: str
    """Why the others are hidden, as a sentence; empty where none is."""


def visible_devices(value: str | None, names: Sequence[Sequence[str]]) -> Visible:
    """Apply the variable's `value` (None: not set) to devices in CUDA's own order.

    `names`: of each device its UUIDs, such as GPU-… or MIG-…, in every form that CUDA takes.
    Never raises, whatever the value.
    """
    if value is None:
        return Visible(tuple(range(len(names))), "")
    if not value.strip():
        return Visible((), "CUDA_VISIBLE_DEVICES is set but empty, so CUDA shows no GPU.")
    by_uuid = value.startswith(("GPU-", "MIG-"))
    order: list[int] = []
    for entry in value.split(","):
        matches = _by_uuid(entry, names) if by_uuid else _by_number(entry, len(names))
        if len(matches) != 1:
            return Visible(tuple(order), _cut(value, entry.strip(), len(matches), len(names)))
        if matches[0] in order:
            reason = f"CUDA_VISIBLE_DEVICES={value} names a GPU twice, and CUDA does not start."
            return Visible((), reason)
        order += matches
    return Visible(tuple(order), f"CUDA_VISIBLE_DEVICES={value} leaves it out.")


def _by_number(entry: str, count: int) -> list[int]:
    number = _NUMBER.match(entry)
    if number is None or len(number[1]) > 19:  # more than a C long holds
        return []
    device = int(number[1]) & 0xFFFF_FFFF  # CUDA keeps an int of it
    return [device] if device < count else []


def _by_uuid(entry: str, names: Sequence[Sequence[str]]) -> list[int]:
    wanted = _UUID.match(entry)
    if wanted is None:
        return []
    start = wanted[0] if wanted[0].startswith("MIG-") else wanted[0][:_UUID_LENGTH]
    start = start.lower()
    return [i for i, own in enumerate(names) if any(n.lower().startswith(start) for n in own)]


def _cut(value: str, entry: str, matches: int, count: int) -> str:
    if entry == "-1":
        return f"CUDA_VISIBLE_DEVICES={value} ends at -1."
    what = f"fits {matches} GPUs" if matches else f"is none of the {count} GPU(s) here"
    return f"CUDA_VISIBLE_DEVICES={value}: {entry!r} {what}, and CUDA ends the list there."


def container_request(value: str | None, count: int) -> str | None:
    """What NVIDIA_VISIBLE_DEVICES says about the `count` GPUs that are here; None: nothing odd.

    The container runtime reads it, and CUDA does not: inside a container it explains, but hides
    nothing more. With CDI the runtime sets it to void although GPUs are there.
    """
    wanted = (value or "").strip().lower()
    if value is None or wanted == "all":
        return None
    if wanted in ("", "none", "void"):
        return None if count else f"NVIDIA_VISIBLE_DEVICES={value} asks for none."
    named = len(wanted.split(","))
    if not 0 < named < count:
        return None
    return (
        f"NVIDIA_VISIBLE_DEVICES={value} names {named} of the {count} GPUs here, but only the "
        "container runtime reads it, and it was passed over: CUDA_VISIBLE_DEVICES hides the others."
    )
