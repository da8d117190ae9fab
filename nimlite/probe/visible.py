"""Which GPUs CUDA shows to a process, by CUDA_VISIBLE_DEVICES.

The rules are those of the CUDA programming guide, "CUDA environment variables": a list of numbers,
of UUIDs or of beginnings of them; it also gives the order; and it ends before its first entry that
is no device. A device named twice leaves none at all, which is not written there but is so.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

_NUMBER = re.compile(r"\s*\+?([0-9]{1,9})")
"""As C's strtoul reads: what follows the digits doesn't matter."""


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
    order: list[int] = []
    for entry in value.split(","):
        device = _find(entry, names)
        if device is None:
            return Visible(tuple(order), _cut(value, entry, names))
        if device in order:
            return Visible((), f"CUDA_VISIBLE_DEVICES={value} names a GPU twice: CUDA shows none.")
        order.append(device)
    return Visible(tuple(order), f"CUDA_VISIBLE_DEVICES={value} leaves it out.")


def _find(entry: str, names: Sequence[Sequence[str]]) -> int | None:
    wanted = entry.strip()
    if wanted.startswith(("GPU-", "MIG-")):
        matches = [i for i, own in enumerate(names) if any(n.startswith(wanted) for n in own)]
        return matches[0] if len(matches) == 1 else None
    number = _NUMBER.match(entry)
    return int(number[1]) if number and int(number[1]) < len(names) else None


def _cut(value: str, entry: str, names: Sequence[Sequence[str]]) -> str:
    wanted = entry.strip()
    if wanted == "-1":
        return f"CUDA_VISIBLE_DEVICES={value} ends at -1."
    count = sum(any(name.startswith(wanted) for name in own) for own in names) if wanted else 0
    what = f"fits {count} GPUs" if count > 1 else f"is none of the {len(names)} GPU(s) here"
    return f"CUDA_VISIBLE_DEVICES={value}: {wanted!r} {what}, and CUDA ends the list there."


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
