"""Which GPUs a profile may take together."""

from collections.abc import Iterator, Sequence

from nimlite.probe.machine import Gpu, Machine


def placements(machine: Machine, num_gpus: int) -> Iterator[tuple[Gpu, ...]]:
    """The emptiest `num_gpus` of every group of equal cards; with NVLink, of every island of it."""
    for group in _groups(machine):
        if num_gpus == 1 or (num_gpus <= len(group) and not any(gpu.mig for gpu in group)):
            emptiest = sorted(group, key=lambda gpu: -gpu.free_bytes)
            yield tuple(emptiest[:num_gpus])


def rest(machine: Machine, taken: Sequence[Gpu]) -> int:
    """How many further sets of as many equal cards, at least as free as the fullest of them, there
    are."""
    least = min(gpu.free_bytes for gpu in taken)
    indices = {gpu.index for gpu in taken}
    count = 0
    for group in _groups(machine):
        if _kind(group[0]) == _kind(taken[0]):
            free = [g for g in group if g.index not in indices and g.free_bytes >= least]
            count += len(free) // len(taken)
    return count


def _groups(machine: Machine) -> list[list[Gpu]]:
    kinds: dict[tuple[str, str, int], list[Gpu]] = {}
    for gpu in machine.gpus:
        kinds.setdefault(_kind(gpu), []).append(gpu)
    return [island for cards in kinds.values() for island in _islands(cards, machine)]


def _kind(gpu: Gpu) -> tuple[str, str, int]:
    return gpu.name, gpu.compute_capability, gpu.total_bytes


def _islands(cards: list[Gpu], machine: Machine) -> list[list[Gpu]]:
    """Cards that NVLink joins, every two of them; all where there is no NVLink."""
    joined = {link.gpus for link in machine.links if link.nvlinks}
    if not any(set(pair) <= {card.index for card in cards} for pair in joined):
        return [cards]
    islands: list[list[Gpu]] = []
    for card in cards:
        for island in islands:
            pairs = (tuple(sorted((card.index, other.index))) for other in island)
            if all(pair in joined for pair in pairs):
                island.append(card)
                break
        else:
            islands.append([card])
    return islands
