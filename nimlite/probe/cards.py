"""What NVIDIA's data sheets say about its cards, by the name that NVML gives them.

Facts only, each row with its source. Rates are dense: data sheets print tensor rates with 2:4
sparsity, twice as high. GeForce cards sum fp16, bf16 and fp8 products in fp32 at half the rate that
their advertisements name, and LLMs need fp32 sums: the table has the half. Names and PCI devices
are those of the PCI ID repository (pci-ids.ucw.cz); memory in MiB is what `nvidia-smi` shows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

_CORES_PER_SM = {"7.0": 64, "7.5": 64, "8.0": 64}
"""All others: 128. CUDA C++ programming guide, compute capabilities."""

_TENSOR_FLOPS_PER_SM = {
    "7.0": 1024, "7.5": 1024, "8.0": 2048, "8.6": 1024, "8.7": 1024, "8.9": 1024,
    "9.0": 4096, "10.0": 8192, "10.3": 8192, "11.0": 4096, "12.0": 1024, "12.1": 1024,
}  # fmt: skip
"""fp16 operations a clock: the white papers of Volta to Blackwell. It gives every rate below."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One product."""

    name: str
    """As NVML says."""
    pci: str
    """PCI device in hexadecimal; the vendor is 10de."""
    capability: str
    gigabytes: int
    """On the data sheet."""
    mib: int
    """As the driver shows: cards with GDDR memory give a sixteenth of it to ECC."""
    gb_s: float
    """Memory bandwidth in 10**9 bytes/s."""
    sms: int
    watts: int
    tflops: Mapping[str, float]
    """By precision, dense."""
    pcie: int = 4
    """Generation, on 16 lanes."""
    nvlinks: int = 0
    """At most, all together."""
    nvlink_gb_s: float = 0.0
    """10**9 bytes/s of one link, one way."""
    ecc: bool = True
    source: str = field(kw_only=True)


def _tensor(fp32: float, fp16: float, fp8: float | None = None) -> dict[str, float]:
    """Of Ampere and newer: bf16 runs as fp16, int8 twice as fast, and fp8 is given."""
    rates = {"fp32": fp32, "fp16": fp16, "bf16": fp16, "int8": 2 * fp16}
    return rates if fp8 is None else {**rates, "fp8": fp8}


CARDS = (
    Card(name="Tesla T4", pci="1eb8", capability="7.5", gigabytes=16, mib=15360, gb_s=320, sms=40,
         watts=70, pcie=3, tflops={"fp32": 8.1, "fp16": 65, "int8": 130},
         source="NVIDIA T4 data sheet, 2019"),
    Card(name="Tesla V100-SXM2-16GB", pci="1db1", capability="7.0", gigabytes=16, mib=16384,
         gb_s=900, sms=80, watts=300, pcie=3, nvlinks=6, nvlink_gb_s=25,
         tflops={"fp32": 15.7, "fp16": 125}, source="NVIDIA V100 data sheet, 2020"),
    Card(name="Tesla V100-SXM2-32GB", pci="1db5", capability="7.0", gigabytes=32, mib=32768,
         gb_s=900, sms=80, watts=300, pcie=3, nvlinks=6, nvlink_gb_s=25,
         tflops={"fp32": 15.7, "fp16": 125}, source="NVIDIA V100 data sheet, 2020"),
    Card(name="Tesla V100-PCIE-16GB", pci="1db4", capability="7.0", gigabytes=16, mib=16384,
         gb_s=900, sms=80, watts=250, pcie=3, tflops={"fp32": 14, "fp16": 112},
         source="NVIDIA V100 data sheet, 2020"),
    Card(name="Tesla V100-PCIE-32GB", pci="1db6", capability="7.0", gigabytes=32, mib=32768,
         gb_s=900, sms=80, watts=250, pcie=3, tflops={"fp32": 14, "fp16": 112},
         source="NVIDIA V100 data sheet, 2020"),
    Card(name="NVIDIA A10", pci="2236", capability="8.6", gigabytes=24, mib=23028, gb_s=600,
         sms=72, watts=150, tflops=_tensor(31.2, 125), source="NVIDIA A10 data sheet, 2021"),
    Card(name="NVIDIA A10G", pci="2237", capability="8.6", gigabytes=24, mib=23028, gb_s=600,
         sms=80, watts=300, tflops=_tensor(35, 70),
         source="NVIDIA A10G data sheet (Amazon EC2 G5), 2022"),
    Card(name="NVIDIA A30", pci="20b7", capability="8.0", gigabytes=24, mib=24576, gb_s=933,
         sms=56, watts=165, nvlinks=4, nvlink_gb_s=25, tflops=_tensor(10.3, 165),
         source="NVIDIA A30 data sheet, 2022"),
    Card(name="NVIDIA A40", pci="2235", capability="8.6", gigabytes=48, mib=46068, gb_s=696,
         sms=84, watts=300, nvlinks=4, nvlink_gb_s=14.0625, tflops=_tensor(37.4, 149.7),
         source="NVIDIA A40 data sheet, 2021"),
    Card(name="NVIDIA A100-PCIE-40GB", pci="20f1", capability="8.0", gigabytes=40, mib=40960,
         gb_s=1555, sms=108, watts=250, nvlinks=12, nvlink_gb_s=25, tflops=_tensor(19.5, 312),
         source="NVIDIA A100 data sheet, 2020"),
    Card(name="NVIDIA A100-SXM4-40GB", pci="20b0", capability="8.0", gigabytes=40, mib=40960,
         gb_s=1555, sms=108, watts=400, nvlinks=12, nvlink_gb_s=25, tflops=_tensor(19.5, 312),
         source="NVIDIA A100 data sheet, 2020"),
    Card(name="NVIDIA A100 80GB PCIe", pci="20b5", capability="8.0", gigabytes=80, mib=81920,
         gb_s=1935, sms=108, watts=300, nvlinks=12, nvlink_gb_s=25, tflops=_tensor(19.5, 312),
         source="NVIDIA A100 data sheet, 2022"),
    Card(name="NVIDIA A100-SXM4-80GB", pci="20b2", capability="8.0", gigabytes=80, mib=81920,
         gb_s=2039, sms=108, watts=400, nvlinks=12, nvlink_gb_s=25, tflops=_tensor(19.5, 312),
         source="NVIDIA A100 data sheet, 2022"),
    Card(name="NVIDIA L4", pci="27b8", capability="8.9", gigabytes=24, mib=23034, gb_s=300,
         sms=58, watts=72, tflops=_tensor(30.3, 121, 242.5), source="NVIDIA L4 data sheet, 2023"),
    Card(name="NVIDIA L40", pci="26b5", capability="8.9", gigabytes=48, mib=46068, gb_s=864,
         sms=142, watts=300, tflops=_tensor(90.5, 181.05, 362),
         source="NVIDIA L40 data sheet, 2023"),
    Card(name="NVIDIA L40S", pci="26b9", capability="8.9", gigabytes=48, mib=46068, gb_s=864,
         sms=142, watts=350, tflops=_tensor(91.6, 362.05, 733),
         source="NVIDIA L40S data sheet, 2024"),
    Card(name="NVIDIA H100 80GB HBM3", pci="2330", capability="9.0", gigabytes=80, mib=81559,
         gb_s=3350, sms=132, watts=700, pcie=5, nvlinks=18, nvlink_gb_s=25,
         tflops=_tensor(67, 989.5, 1979), source="NVIDIA H100 data sheet, 2024 (SXM)"),
    Card(name="NVIDIA H100 PCIe", pci="2331", capability="9.0", gigabytes=80, mib=81559,
         gb_s=2000, sms=114, watts=350, pcie=5, nvlinks=12, nvlink_gb_s=25,
         tflops=_tensor(51, 756.5, 1513), source="NVIDIA H100 data sheet, 2023 (PCIe)"),
    Card(name="NVIDIA H100 NVL", pci="2321", capability="9.0", gigabytes=94, mib=95830,
         gb_s=3900, sms=132, watts=400, pcie=5, nvlinks=12, nvlink_gb_s=25,
         tflops=_tensor(60, 835.5, 1671), source="NVIDIA H100 data sheet, 2024 (NVL)"),
    Card(name="NVIDIA H200", pci="2335", capability="9.0", gigabytes=141, mib=143771, gb_s=4800,
         sms=132, watts=700, pcie=5, nvlinks=18, nvlink_gb_s=25,
         tflops=_tensor(67, 989.5, 1979), source="NVIDIA H200 data sheet, 2024 (SXM)"),
    Card(name="NVIDIA H200 NVL", pci="233b", capability="9.0", gigabytes=141, mib=143771,
         gb_s=4800, sms=132, watts=600, pcie=5, nvlinks=18, nvlink_gb_s=25,
         tflops=_tensor(60, 835.5, 1671), source="NVIDIA H200 data sheet, 2024 (NVL)"),
    Card(name="NVIDIA GH200 480GB", pci="2342", capability="9.0", gigabytes=96, mib=97871,
         gb_s=4000, sms=132, watts=900, pcie=5, nvlinks=18, nvlink_gb_s=25,
         tflops=_tensor(67, 990, 1979), source="NVIDIA GH200 data sheet, 2023 (96 GB HBM3)"),
    Card(name="NVIDIA B200", pci="2901", capability="10.0", gigabytes=180, mib=183359, gb_s=7700,
         sms=148, watts=1000, pcie=5, nvlinks=18, nvlink_gb_s=50,
         tflops=_tensor(75, 2250, 4500), source="NVIDIA HGX B200 data sheet, 2025, per GPU"),
    Card(name="NVIDIA GB200", pci="2941", capability="10.0", gigabytes=186, mib=189471, gb_s=8000,
         sms=152, watts=1200, pcie=5, nvlinks=18, nvlink_gb_s=50,
         tflops=_tensor(80, 2500, 5000), source="NVIDIA GB200 NVL72 data sheet, 2025, per GPU"),
    Card(name="NVIDIA GB10", pci="2e12", capability="12.1", gigabytes=128, mib=122572, gb_s=273,
         sms=48, watts=140, pcie=5, ecc=False, tflops=_tensor(31, 125, 250),
         source="NVIDIA DGX Spark data sheet, 2025: 1 PFLOP fp4, sparse; an eighth of it is bf16"),
    Card(name="NVIDIA RTX A6000", pci="2230", capability="8.6", gigabytes=48, mib=49140, gb_s=768,
         sms=84, watts=300, nvlinks=4, nvlink_gb_s=14.0625, tflops=_tensor(38.7, 154.8),
         source="NVIDIA RTX A6000 data sheet, 2020"),
    Card(name="NVIDIA RTX 6000 Ada Generation", pci="26b1", capability="8.9", gigabytes=48,
         mib=49140, gb_s=960, sms=142, watts=300, tflops=_tensor(91.1, 364.2, 728.5),
         source="NVIDIA RTX 6000 Ada Generation data sheet, 2023"),
    Card(name="NVIDIA RTX PRO 6000 Blackwell Server Edition", pci="2bb5", capability="12.0",
         gigabytes=96, mib=97887, gb_s=1597, sms=188, watts=600, pcie=5,
         tflops=_tensor(120, 500, 1000),
         source="NVIDIA RTX PRO 6000 Blackwell Server Edition data sheet, 2025: 4 PFLOP/s fp4"),
    Card(name="NVIDIA RTX PRO 6000 Blackwell Workstation Edition", pci="2bb1", capability="12.0",
         gigabytes=96, mib=97887, gb_s=1792, sms=188, watts=600, pcie=5,
         tflops=_tensor(125, 500, 1000),
         source="NVIDIA RTX PRO 6000 Blackwell Workstation Edition data sheet, 2025"),
    Card(name="NVIDIA GeForce RTX 3060", pci="2504", capability="8.6", gigabytes=12, mib=12288,
         gb_s=360, sms=28, watts=170, ecc=False,
         tflops={"fp32": 12.7, "fp16": 25.5, "bf16": 25.5, "int8": 102},
         source="NVIDIA Ampere GA10x white paper, 2021: GA106 at 1.78 GHz"),
    Card(name="NVIDIA GeForce RTX 3090", pci="2204", capability="8.6", gigabytes=24, mib=24576,
         gb_s=936, sms=82, watts=350, nvlinks=4, nvlink_gb_s=14.0625, ecc=False,
         tflops={"fp32": 35.6, "fp16": 71, "bf16": 71, "int8": 284},
         source="NVIDIA Ampere GA102 white paper, 2021, appendix"),
    Card(name="NVIDIA GeForce RTX 4090", pci="2684", capability="8.9", gigabytes=24, mib=24564,
         gb_s=1008, sms=128, watts=450, ecc=False,
         tflops={"fp32": 82.6, "fp16": 165.2, "bf16": 165.2, "int8": 660.6, "fp8": 330.3},
         source="NVIDIA Ada white paper, 2023, appendix"),
    Card(name="NVIDIA GeForce RTX 5090", pci="2b85", capability="12.0", gigabytes=32, mib=32607,
         gb_s=1792, sms=170, watts=575, pcie=5, ecc=False,
         tflops={"fp32": 104.8, "fp16": 209.5, "bf16": 209.5, "int8": 838, "fp8": 419},
         source="NVIDIA RTX Blackwell white paper, 2025, appendix"),
)  # fmt: skip


def find_card(name: str) -> Card | None:
    """The card that NVML calls `name`; before driver 470 the names lacked "NVIDIA"."""
    wanted = name.removeprefix("NVIDIA ").removeprefix("Tesla ")
    for card in CARDS:
        if card.name.removeprefix("NVIDIA ").removeprefix("Tesla ") == wanted:
            return card
    return None


def multiprocessors(cores: int, capability: str) -> int:
    """Of a GPU with so many CUDA cores."""
    return cores // _CORES_PER_SM.get(capability, 128)


def estimated_flops(name: str, capability: str, sms: int, clock_hz: float) -> dict[str, float]:
    """Peak dense FLOP/s by precision of a card that the table lacks, at its highest clock."""
    rates = {"fp32": 2.0 * _CORES_PER_SM.get(capability, 128) * sms * clock_hz}
    per_sm = _TENSOR_FLOPS_PER_SM.get(capability)
    if per_sm is None:
        return rates
    tensor = per_sm * sms * clock_hz
    slow_sums = 0.5 if "GeForce" in name and capability not in ("7.0", "8.0") else 1.0
    version = tuple(int(part) for part in capability.split("."))
    rates["fp16"] = slow_sums * tensor
    if version >= (7, 5):
        rates["int8"] = 2 * tensor
    if version >= (8, 0):
        rates["bf16"] = slow_sums * tensor
    if version >= (8, 9):
        rates["fp8"] = 2 * slow_sums * tensor
    return rates


def pcie_bytes_per_s(generation: int, lanes: int) -> float:
    """One way, after the line code (8b/10b, then 128b/130b, then none)."""
    gigatransfers = {1: 2.5, 2: 5.0, 3: 8.0, 4: 16.0, 5: 32.0, 6: 64.0}.get(generation, 64.0)
    code = 0.8 if generation <= 2 else 128 / 130
    return gigatransfers * 1e9 / 8 * code * lanes
