"""Building the kernels: the cache, failures, and builds for lesser machines."""

import re
import threading
from pathlib import Path

import pytest
import torch
from kernel_cases import Heads, ragged_batch, random, relative_error

from nimlite.kernels.base import Scores
from nimlite.kernels.cpu import library as library_module
from nimlite.kernels.cpu import op
from nimlite.kernels.cpu.cpu_kernels import CpuKernels
from nimlite.kernels.cpu.library import SOURCE_DIR, LibraryUnavailableError, load
from nimlite.quant import SCHEMES


def test_the_second_load_takes_the_cached_build(
    library: object, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library_module, "build", lambda *_: pytest.fail("built again"))
    load(cache_dir)


def test_two_builders_build_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    build = library_module.build

    def counted(path: Path, machine: tuple[str, ...]) -> None:
        built.append(path)
        build(path, machine)

    monkeypatch.setattr(library_module, "build", counted)
    monkeypatch.setattr(library_module, "_FLAGS", (*library_module._FLAGS, "-O0"))
    threads = [threading.Thread(target=load, args=(tmp_path,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".lock", ".so"]


def test_without_a_compiler_the_reason_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LibraryUnavailableError, match=r"there is no C\+\+ compiler \(g\+\+\)"):
        load(tmp_path)


def test_a_compiler_that_fails_is_quoted(tmp_path: Path) -> None:
    with pytest.raises(LibraryUnavailableError, match=r"g\+\+ failed: .*no-such-machine"):
        load(tmp_path, machine=("-march=no-such-machine",))


@pytest.mark.parametrize(
    ("kind", "name", "values"),
    [
        ("int32_t", "OpCode", op.OpCode),
        ("int32_t", "Rows", op.Rows),
        ("int64_t", "Scheme", op.SCHEMES),
        ("int64_t", "KvType", op.KV_TYPES),
        ("int64_t", "Activation", op.ACTIVATIONS),
    ],
)
def test_python_and_cpp_number_things_alike(kind: str, name: str, values: object) -> None:
    header = (SOURCE_DIR / "op.h").read_text()
    match = re.search(rf"enum class {name} : {kind} \{{(.*?)\}}", header, re.DOTALL)
    assert match is not None
    in_cpp = [word.lower() for word in re.findall(r"k(\w+)", match[1])]
    if isinstance(values, dict):
        in_python = [str(key).removeprefix("torch.") for key in values]
        assert list(values.values()) == list(range(len(values)))
    else:
        in_python = [member.name for member in values]  # type: ignore[attr-defined]
    shortened = {"float32": "fp32", "bfloat16": "bf16", "float8_e4m3fn": "fp8", "TOKENS": "tokens"}
    assert in_cpp == [shortened.get(n, n).replace("_", "").lower() for n in in_python]


@pytest.mark.parametrize("machine", ["x86-64-v3", "x86-64"])
def test_builds_without_avx512_compute_the_same(
    cache_dir: Path, kernels: CpuKernels, machine: str
) -> None:
    portable = CpuKernels(load(cache_dir, machine=(f"-march={machine}",)), num_threads=1)
    for name, scheme in SCHEMES.items():
        weight, x_TC = scheme.pack(random(40, 64)), random(5, 64, seed=1)
        value, expected = (k.linear(x_TC, weight, None) for k in (portable, kernels))
        assert relative_error(value, expected) <= 1e-6, name
        ids = torch.arange(5, dtype=torch.int32)
        assert torch.equal(portable.embed(weight, ids), kernels.embed(weight, ids))
    heads = Heads(num_heads=4, num_kv_heads=2, head_dim=32, dtype=torch.bfloat16)
    batch, num_blocks = ragged_batch([(0, 30), (0, 3)], 16, torch.Generator().manual_seed(0))
    layout, outputs = heads.layout(num_blocks), []
    for k in (portable, kernels):
        kv, qkv_TE = k.allocate_kv(1, layout)[0], random(33, heads.qkv_size)
        k.rope_and_cache(qkv_TE, random(30, 32), kv, batch, layout)
        o_TD = k.attention(qkv_TE, kv, batch, layout, 4, Scores(scale=0.2))
        outputs.append(k.rms_norm(k.gated_activation(o_TD, "silu"), torch.ones(64), 1e-5))
    assert relative_error(*outputs) <= 1e-6
