"""What a build did to a model's graph, pass by pass, read off the engine that it made.

T tokens of a step   L layers   D hidden size
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nimlite.build.engine_dir import EngineDirectory
from nimlite.kernels.base import Kernels
from nimlite.kernels.torch_kernels import TorchKernels
from nimlite.layers.linear import Weights
from nimlite.models.registry import weight_sources
from nimlite.models.spec import ModelSpec, WeightSource
from nimlite.profiles.manifest import Device, Profile
from nimlite.profiles.memory import MemoryPlan
from nimlite.quant.base import PackedWeight

Choices = Mapping[str, Mapping[str, Any]]
"""As kernels/triton/tuning.py keeps them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One change to the graph."""

    name: str
    changed: str
    saved: str


def explain(
    built: EngineDirectory, memory: MemoryPlan, kernels: Kernels | Choices
) -> tuple[Pass, ...]:
    """The passes in their order. `memory`: how the engine is planned to lie in it here. `kernels`:
    the CPU's, or what was chosen for the GPU's products."""
    spec, profile, weights = built.config.spec, built.config.profile, built.weights()
    return (
        *_fusions(spec),
        _norms(spec),
        _folding(built.config.folded_norms, spec),
        *_rotation(spec),
        _vocabulary(spec, weights),
        _last_block(spec),
        _unused(built.config.unused),
        *_packing(spec, weights),
        *_plans(built),
        _memory(spec, profile, memory),
        _measured_kernels(weights, kernels)
        if isinstance(kernels, Mapping)
        else _cpu_kernels(weights, kernels),
    )


def _fusions(spec: ModelSpec) -> Iterator[Pass]:
    """The engine tensors that are several of the checkpoint's, by what they are in a layer."""
    fused: dict[str, list[WeightSource]] = {}
    for name, source in weight_sources(spec).items():
        if source.quantize and len(source.names) > 1:
            fused.setdefault(name.rpartition(".")[2], []).append(source)
    for name, groups in fused.items():
        parts = groups[0].names
        rows, columns = groups[0].shape
        modules = " + ".join(part.split(".")[-2] for part in parts)
        products = sum(len(group.names) - 1 for group in groups)
        yield Pass(
            name=f"{name} fusion",
            changed=f"{modules} are one product [{rows}, {columns}] in {len(groups)} layers",
            saved=f"{products} of {products + len(groups)} products a step, each of which would"
            " read its input again",
        )


def _norms(spec: ModelSpec) -> Pass:
    fused = spec.num_layers * (1 if spec.block.startswith("parallel") else 2)
    return Pass(
        name="residual and norm",
        changed=f"each of {fused} sums with the residual stream is one kernel with the norm after"
        " it, which gives its output as the next product reads it",
        saved=f"{fused} kernels a step, and for each token {fused} readings of {spec.hidden_size}"
        " elements",
    )


def _folding(num_norms: int, spec: ModelSpec) -> Pass:
    if not num_norms:
        return Pass(
            name="norm folding",
            changed="nothing: no linear's input is scaled in this precision",
            saved="nothing",
        )
    return Pass(
        name="norm folding",
        changed=f"{num_norms} norms divide by the factors that the linears behind them were"
        " multiplied by",
        saved=f"{num_norms * spec.hidden_size} multiplications a token",
    )


def _rotation(spec: ModelSpec) -> Iterator[Pass]:
    ropes = [rope for rope in (spec.rope, spec.local_rope) if rope is not None]
    if not ropes:
        return
    width = ropes[0].dim or spec.head_dim
    table = 4 * spec.max_positions * width
    tables = "a table" if len(ropes) == 1 else "two tables"
    yield Pass(
        name="RoPE table",
        changed=f"cosines and sines of {spec.max_positions} positions are computed once, into"
        f" {tables} of {_size(table)} that all {spec.num_layers} layers read",
        saved=f"{spec.num_layers * width} cosines and sines a token, and"
        f" {_size((spec.num_layers - len(ropes)) * table)} that further tables would take",
    )


def _vocabulary(spec: ModelSpec, weights: Weights) -> Pass:
    size = _bytes_of(weights["embedding"])
    if spec.tie_embeddings:
        return Pass(
            name="tied embedding",
            changed=f"the head is the embedding [{spec.vocab_size}, {spec.hidden_size}], held once",
            saved=_size(size),
        )
    return Pass(
        name="tied embedding",
        changed="nothing: this model's head has weights of its own",
        saved="nothing",
    )


def _last_block(spec: ModelSpec) -> Pass:
    layer = (spec.num_parameters - _vocabulary_parameters(spec)) // spec.num_layers
    head = spec.vocab_size * spec.hidden_size
    after_attention = layer - spec.qkv_size * spec.hidden_size
    products = layer * spec.num_layers + head
    return Pass(
        name="dead rows",
        changed="a prompt's tokens stop in the last block after their keys and values, but for"
        " those whose logits are asked for",
        saved=f"{(after_attention + head) / products:.1%} of such a token's products"
        f" ({head / products:.1%} in the head)",
    )


def _unused(names: Sequence[str]) -> Pass:
    if not names:
        changed = "nothing: every tensor of the checkpoint is computed with"
        return Pass(name="dead tensors", changed=changed, saved="nothing")
    return Pass(
        name="dead tensors",
        changed=f"left out, as nothing reads them: {', '.join(names[:3])}"
        + (f" and {len(names) - 3} more" if len(names) > 3 else ""),
        saved=f"{len(names)} tensors",
    )


def _packing(spec: ModelSpec, weights: Weights) -> Iterator[Pass]:
    """By format: the tensors that are held so."""
    tensors, elements, sizes = Counter[str](), Counter[str](), Counter[str]()
    for weight in weights.values():
        if isinstance(weight, PackedWeight):
            tensors[weight.scheme] += 1
            elements[weight.scheme] += weight.num_rows * weight.num_columns
            sizes[weight.scheme] += _bytes_of(weight)
    for scheme, size in sizes.items():
        in_16_bits = 2 * elements[scheme]
        yield Pass(
            name=f"packing as {scheme}",
            changed=f"matrices: {tensors[scheme]}, of {elements[scheme] / 1e6:.1f} M weights, laid"
            f" out as the kernels read them: {8 * size / elements[scheme]:.2f} bits a weight",
            saved=f"{_size(in_16_bits - size)} of {_size(in_16_bits)} in 16 bits"
            if size < in_16_bits
            else f"nothing: {_size(size)}, and {_size(in_16_bits)} in 16 bits",
        )


def _plans(built: EngineDirectory) -> Iterator[Pass]:
    """Of TensorRT, where the engine has some."""
    files = [size for name, size in built.config.files.items() if name.endswith(".plan")]
    if not files:
        return
    num_segments = built.config.spec.num_layers + 1
    size = sum(file.size for file in files)
    yield Pass(
        name="TensorRT plans",
        changed=f"what lies between two attentions is one of {num_segments} segments, of"
        f" {len(files)} plans: {_size(size)} in all, for weights are their inputs",
        saved=f"{num_segments - len(files)} plans that layers of one shape would have of their own",
    )


def _memory(spec: ModelSpec, profile: Profile, memory: MemoryPlan) -> Pass:
    element_bytes = 4 if profile.device is Device.CPU else 2
    width = spec.qkv_size + spec.num_heads * spec.head_dim + spec.up_size + spec.intermediate_size
    layer = element_bytes * profile.max_num_tokens * width // profile.tp
    return Pass(
        name="memory plan",
        changed=f"one set of buffers for a step of {profile.max_num_tokens} tokens,"
        f" {_size(memory.activations)}, serves all {spec.num_layers} layers; weights take"
        f" {_size(memory.weights)}, keys and values {_size(memory.kv_cache)} of"
        f" {_size(memory.budget)}",
        saved=f"{_size((spec.num_layers - 1) * layer)} that buffers of their own would take",
    )


def _cpu_kernels(weights: Weights, kernels: Kernels) -> Pass:
    packed = [weight for weight in weights.values() if isinstance(weight, PackedWeight)]
    schemes = " and ".join(sorted({weight.scheme for weight in packed}))
    if isinstance(kernels, TorchKernels):
        return Pass(
            name="kernel choice",
            changed=f"plain torch computes, as the log says why, and unpacks {schemes}",
            saved="nothing",
        )
    unpacked = sum((4 if w.scheme == "fp32" else 2) * w.num_rows * w.num_columns for w in packed)
    return Pass(
        name="kernel choice",
        changed=f"C++ compiled for this processor computes, and reads {schemes} as it is packed",
        saved=f"{_size(unpacked)} that plain torch would unpack to",
    )


def _measured_kernels(weights: Weights, choices: Choices) -> Pass:
    """Of each number of rows that was measured: all matrices once, by what was chosen and by the
    library (microseconds)."""
    chosen, library, own, counted = Counter[int](), Counter[int](), 0, 0
    unrivalled = set[int]()
    for name, weight in weights.items():
        if not isinstance(weight, PackedWeight) or (name == "embedding" and "head" in weights):
            continue
        for key, choice in choices.items():
            kind, _, rows = key.rpartition(" ")
            if kind != f"{weight.scheme} {weight.num_rows}x{weight.num_columns}":
                continue
            counted += 1
            own += choice["config"] is not None
            chosen[int(rows)] += choice["microseconds"]
            if choice["library_microseconds"] is None:
                unrivalled.add(int(rows))
            library[int(rows)] += choice["library_microseconds"] or 0
    if not counted:
        return Pass(name="kernel choice", changed="nothing was measured on this GPU", saved="")
    times = [
        f"{rows} rows {chosen[rows]:,.0f} µs"
        + (" (the library has none)" if rows in unrivalled else f" ({library[rows]:,.0f} µs)")
        for rows in sorted(chosen)
    ]
    return Pass(
        name="kernel choice",
        changed=f"measured here for each matrix and number of rows: {own} of {counted} run"
        " nimlite's kernels, the others the library's",
        saved=f"all products of a step take, by what was chosen (and by the library): "
        f"{', '.join(times)}",
    )


def _vocabulary_parameters(spec: ModelSpec) -> int:
    return spec.vocab_size * spec.hidden_size * (1 if spec.tie_embeddings else 2)


def _bytes_of(weight: object) -> int:
    assert isinstance(weight, PackedWeight)
    return sum(tensor.nbytes for tensor in weight.tensors.values())


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:,.1f} MiB"
