# ruff: noqa: N801, N802, N818 (the names are NVML's)
"""A stand-in for the pynvml module: cards that are described, and functions that some lack."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

MIB = 1 << 20


@dataclass
class Slice:
    name: str
    uuid: str
    gi: int
    sms: int | None
    mib: int
    free: int | None
    """MiB; None: the process may not ask."""


@dataclass
class Card:
    """None: the card or the driver does not know."""

    name: str = "NVIDIA H200"
    uuid: str = "GPU-aaaa"
    bus: str = "00000000:18:00.0"
    pci: int = 0x233510DE
    capability: tuple[int, int] = (9, 0)
    mib: int | None = 143771
    free: int = 143000
    cores: int | None = 16896
    bits: int | None = 6016
    memory_mhz: int | None = 3201
    sm_mhz: int | None = 1980
    pcie: tuple[int, int] | None = (5, 16)
    node: int | None = None
    mig: bool | None = False
    slices: list[Slice] = field(default_factory=list)
    ecc: bool | None = True
    milliwatts: int | None = 700_000
    processes: list[tuple[int, int | None]] = field(default_factory=list)
    links: list[tuple[str, int]] = field(default_factory=list)
    """(PCI address at the far end, its kind) of each active NVLink."""
    version: int | None = 6
    lost: str = ""


class FakeNvml:
    """The functions that the probe calls, over `cards`; handles are the cards themselves."""

    class NVMLError(Exception):
        pass

    class NVMLError_LibraryNotFound(NVMLError):
        pass

    def __init__(
        self, cards: list[Card], path: int = 50, p2p: int = 0, failure: Exception | None = None
    ) -> None:
        self.cards, self.path, self.p2p, self.failure = cards, path, p2p, failure

    def _known(self, value: Any) -> Any:
        if value is None:
            raise self.NVMLError("Not Supported")
        return value

    def nvmlInit(self) -> None:
        if self.failure:
            raise self.failure

    def nvmlSystemGetCudaDriverVersion_v2(self) -> int:
        return 13000

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.95.05"

    def nvmlDeviceGetCount(self) -> int:
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Card:
        if self.cards[index].lost:
            raise self.NVMLError(self.cards[index].lost)
        return self.cards[index]

    def nvmlDeviceGetCudaComputeCapability(self, card: Card) -> tuple[int, int]:
        return card.capability

    def nvmlDeviceGetPciInfo(self, card: Card) -> SimpleNamespace:
        return SimpleNamespace(busId=card.bus.encode(), pciDeviceId=card.pci)

    def nvmlDeviceGetName(self, card: Card | Slice) -> str:
        return card.name

    def nvmlDeviceGetUUID(self, card: Card | Slice) -> bytes:
        return card.uuid.encode()

    def nvmlDeviceGetMemoryInfo(self, card: Card | Slice) -> SimpleNamespace:
        free = self._known(card.free)
        return SimpleNamespace(total=self._known(card.mib) * MIB, free=free * MIB)

    def nvmlDeviceGetNumGpuCores(self, card: Card) -> int:
        return self._known(card.cores)

    def nvmlDeviceGetMemoryBusWidth(self, card: Card) -> int:
        return self._known(card.bits)

    def nvmlDeviceGetMaxClockInfo(self, card: Card, kind: int) -> int:
        return self._known({1: card.sm_mhz, 2: card.memory_mhz}[kind])

    def nvmlDeviceGetMaxPcieLinkGeneration(self, card: Card) -> int:
        return self._known(card.pcie)[0]

    def nvmlDeviceGetMaxPcieLinkWidth(self, card: Card) -> int:
        return self._known(card.pcie)[1]

    def nvmlDeviceGetNumaNodeId(self, card: Card) -> int:
        return self._known(card.node)

    def nvmlDeviceGetMigMode(self, card: Card) -> list[int]:
        return [int(self._known(card.mig)), 0]

    def nvmlDeviceGetMaxMigDeviceCount(self, card: Card) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, card: Card, index: int) -> Slice:
        return self._known(dict(enumerate(card.slices)).get(index))

    def nvmlDeviceGetAttributes(self, part: Slice) -> SimpleNamespace:
        sms = self._known(part.sms)
        return SimpleNamespace(multiprocessorCount=sms, memorySizeMB=part.mib)

    def nvmlDeviceGetGpuInstanceId(self, part: Slice) -> int:
        return part.gi

    def nvmlDeviceGetComputeInstanceId(self, part: Slice) -> int:
        return 0

    def nvmlDeviceGetEccMode(self, card: Card) -> list[int]:
        return [int(self._known(card.ecc)), 0]

    def nvmlDeviceGetEnforcedPowerLimit(self, card: Card) -> int:
        return self._known(card.milliwatts)

    def nvmlDeviceGetComputeRunningProcesses(self, card: Card | Slice) -> list[SimpleNamespace]:
        held = getattr(card, "processes", [])
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in held]

    def nvmlDeviceGetTopologyCommonAncestor(self, a: Card, b: Card) -> int:
        return self.path

    def nvmlDeviceGetP2PStatus(self, a: Card, b: Card, capability: int) -> int:
        return self.p2p

    def nvmlDeviceGetNvLinkVersion(self, card: Card, link: int) -> int:
        return self._known(card.version)

    def nvmlDeviceGetNvLinkState(self, card: Card, link: int) -> int:
        return int(link < len(card.links))

    def nvmlDeviceGetNvLinkRemotePciInfo(self, card: Card, link: int) -> SimpleNamespace:
        return SimpleNamespace(busId=self._known(card.links[link][0] or None).encode())

    def nvmlDeviceGetNvLinkRemoteDeviceType(self, card: Card, link: int) -> int:
        return card.links[link][1]
