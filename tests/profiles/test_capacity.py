"""What fits, as the table shows it."""

import io

from fakes.machines import GIB, card, host
from rich.console import Console

from nimlite.observe.tables import candidates_table, capacity_table
from nimlite.profiles.capacity import capacities
from nimlite.profiles.load import load_manifest, profiles_directory
from nimlite.profiles.selection import rank
from nimlite.settings import read_settings

LLAMA = load_manifest(profiles_directory() / "llama3-8b.yaml")


def test_the_pool_over_the_bytes_of_a_request() -> None:
    ranking = rank(LLAMA, host([card("H200")], ram=64), read_settings({}))
    found = {c.name: c for c in capacities(LLAMA, ranking)}
    bf16 = found["nimlite-bf16-tp1-pp1-gpu-throughput"]
    # 126 GiB, less 15 GiB of weights and 2.5 GiB of buffers, at 128 KiB a token
    assert 107 * GIB < bf16.kv_bytes < 109 * GIB
    assert bf16.sequences[131072] == bf16.kv_bytes // (16 * GIB) == 6
    assert bf16.sequences[1024] == 512  # the batch
    fp8 = found["nimlite-fp8-tp1-pp1-gpu-throughput"]
    assert fp8.sequences[131072] == fp8.kv_bytes // (8 * GIB) == 14
    on_cpu = found["nimlite-int4-tp1-pp1-cpu"]
    assert on_cpu.kv_bytes == 2 * GIB and on_cpu.sequences[4096] == 4


def test_the_tables() -> None:
    ranking = rank(LLAMA, host([card("A10")], ram=10), read_settings({}))
    screen = io.StringIO()
    console = Console(file=screen, width=160)
    console.print(capacity_table(capacities(LLAMA, ranking)))
    console.print(candidates_table(LLAMA.family, ranking))
    shown = screen.getvalue()
    assert "128k" in shown
    assert f"{ranking[0].profile.id} ({ranking[0].profile.name})" in shown
    assert "incompatible: fp8 needs compute capability 8.9; this machine has NVIDIA A10 (8.6)." in (
        " ".join(shown.split())
    )
    assert "low memory" in shown
