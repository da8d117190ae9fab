"""The weight map of a decoder: its engine tensors, from what a checkpoint calls its modules.

What shape each has and which there are follows from the spec; a family's file gives the names.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from nimlite.models.spec import ENCODER, HeadPairs, ModelSpec, MoeSpec, Stored, WeightSource

Sources = dict[str, WeightSource]


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightNames:
    """The modules of a checkpoint, without .weight and .bias. Defaults are Llama's."""

    embedding: str = "model.embed_tokens"
    embedding_norm: str = ""
    positions: str = ""
    """Learned ones."""
    skipped_positions: int = 0
    """Rows of them that no token has, at the beginning."""
    final_norm: str = "model.norm"
    head: str = "lm_head"
    head_otherwise: str = ""
    """The module whose weight it has where the checkpoint has no head."""
    logits_bias: str = ""
    """A tensor [1, vocabulary] that is the head's bias; empty: the head has its own."""
    layer: str = "model.layers.{}"
    """In front of all that follow."""
    input_norm: str = "input_layernorm"
    post_norm: str = "post_attention_layernorm"
    """Before the MLP."""
    attention_out_norm: str = ""
    mlp_out_norm: str = ""
    """After the two of a sandwich or a post block."""
    q_norm: str = "self_attn.q_norm"
    k_norm: str = "self_attn.k_norm"
    qkv: tuple[str, ...] = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    """One name: the checkpoint has them fused."""
    qkv_groups: int = 1
    """Of a fused one: groups of heads that lie one after the other, each with its queries, keys and
    values."""
    output: str = "self_attn.o_proj"
    up: tuple[str, ...] = ("mlp.gate_proj", "mlp.up_proj")
    """One name: a plain MLP's, or gate and up, fused."""
    down: str = "mlp.down_proj"
    cross_norm: str = ""
    """Before the attention to an encoder, or after it in a post block."""
    cross_q: str = ""
    cross_kv: tuple[str, str] = ("", "")
    cross_output: str = ""
    relative_bias: str = ""
    """Of all layers."""
    router: str = "mlp.gate"
    expert: str = "mlp.experts.{}"
    """In front of an expert's matrices."""
    expert_up: tuple[str, str] = ("gate_proj", "up_proj")
    expert_down: str = "down_proj"
    shared_expert: str = "mlp.shared_expert"
    shared_gate: str = "mlp.shared_expert_gate"
    transposed: bool = False
    """Matrices of the layers are stored as [input features, output features]."""
    norm_offset: float = 0.0
    """What RMSNorm's weights lack."""
    unit_head: bool = False
    """Every row of the head is divided by its length."""


def decoder_weights(spec: ModelSpec, names: WeightNames) -> Sources:
    """How every engine tensor is made of the checkpoint's."""
    vocabulary = (spec.vocab_size, spec.hidden_size)
    embedding = Stored(name=f"{names.embedding}.weight", shape=vocabulary)
    sources = {"embedding": WeightSource(tensors=(embedding,), shard="rows")}
    sources |= stack_weights(spec, names)
    if not spec.tie_embeddings:
        otherwise = f"{names.head_otherwise}.weight" if names.head_otherwise else ""
        head = Stored(name=f"{names.head}.weight", shape=vocabulary, otherwise=otherwise)
        unit_rows = names.unit_head
        sources["head"] = WeightSource(tensors=(head,), shard="rows", unit_rows=unit_rows)
    if spec.head_bias:
        bias = Stored(name=f"{names.head}.bias", shape=vocabulary[:1])
        if names.logits_bias:
            shape = (1, spec.vocab_size)
            bias = Stored(name=names.logits_bias, shape=shape, transposed=True, optional=True)
        sources["head.bias"] = WeightSource(tensors=(bias,), shard="rows", quantize=False)
    return sources


def encoder_weights(spec: ModelSpec, names: WeightNames) -> Sources:
    """Those of the encoder of `spec`, whose modules are `names`; the embedding is the decoder's."""
    assert spec.encoder is not None
    sources = stack_weights(spec.encoder, names)
    return {f"{ENCODER}{name}": source for name, source in sources.items()}


def stack_weights(spec: ModelSpec, names: WeightNames) -> Sources:
    """All that is between the embedding and the head."""
    sources: Sources = {}
    if spec.learned_positions:
        rows = names.skipped_positions + spec.max_positions
        positions = Stored(
            name=f"{names.positions}.weight",
            shape=(rows, spec.hidden_size),
            skip=names.skipped_positions,
        )
        sources["positions"] = WeightSource(tensors=(positions,), quantize=False)
    if spec.embedding_norm:
        sources |= _norm(spec, names, "embedding_norm", names.embedding_norm)
    if spec.block != "post":
        sources |= _norm(spec, names, "final_norm", names.final_norm, scale=spec.logit_scale)
    if spec.relative_bias is not None:
        shape = (spec.relative_bias.num_buckets, spec.num_heads)
        bias = Stored(name=f"{names.relative_bias}.weight", shape=shape, transposed=True)
        sources["relative_bias"] = WeightSource(tensors=(bias,), shard="rows", quantize=False)
    for i in range(spec.num_layers):
        sources |= attention_weights(spec, names, i)
        if spec.encoder is not None:
            sources |= _cross_weights(spec, names, i)
        sources |= dict(_mlp(spec, names, i))
    return sources


def attention_weights(spec: ModelSpec, names: WeightNames, i: int) -> Sources:
    """Those of a layer's attention, and of its norms."""
    engine, stored = f"layers.{i}", names.layer.format(i)
    heads = (spec.num_heads, spec.num_kv_heads)
    rows = tuple(count * spec.head_dim for count in (*heads, spec.num_kv_heads))
    qkv = _fused(stored, names.qkv, rows, spec.hidden_size, names, groups=names.qkv_groups)
    pairs = None
    if spec.rope is not None and spec.rope.interleaved:
        rotary_dim = spec.rope.dim or spec.head_dim
        pairs = HeadPairs(head_dim=spec.head_dim, rotary_dim=rotary_dim)
    output = _matrix(stored, names.output, spec.hidden_size, rows[0], names)
    sources = {
        **_norms(spec, names, i),
        **_rows(f"{engine}.qkv", qkv, spec.qkv_bias, heads, pairs),
        **_columns(f"{engine}.output", output, spec.output_bias, heads),
    }
    for kind, module in (("q_norm", names.q_norm), ("k_norm", names.k_norm)):
        if spec.qk_norm:
            norm = Stored(name=f"{stored}.{module}.weight", shape=(spec.head_dim,))
            sources[f"{engine}.{kind}"] = WeightSource(
                tensors=(norm,), quantize=False, offset=names.norm_offset
            )
    return sources


def _cross_weights(spec: ModelSpec, names: WeightNames, i: int) -> Sources:
    """Those of a layer's attention to the encoder."""
    engine, stored, hidden = f"layers.{i}", names.layer.format(i), spec.hidden_size
    heads, kv_heads = (spec.num_heads, spec.num_kv_heads), (spec.num_kv_heads, spec.num_kv_heads)
    queries, size = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
    q = _matrix(stored, names.cross_q, queries, hidden, names)
    kv = tuple(_matrix(stored, name, size, hidden, names) for name in names.cross_kv)
    output = _matrix(stored, names.cross_output, hidden, queries, names)
    kind = "cross_out_norm" if spec.block == "post" else "cross_norm"
    return {
        **_norm(spec, names, f"{engine}.{kind}", f"{stored}.{names.cross_norm}"),
        **_rows(f"{engine}.cross_q", (q,), spec.qkv_bias, heads),
        **_rows(f"{engine}.cross_kv", kv, spec.qkv_bias, kv_heads),
        **_columns(f"{engine}.cross_output", output, spec.output_bias, heads),
    }


def _mlp(spec: ModelSpec, names: WeightNames, i: int) -> Iterator[tuple[str, WeightSource]]:
    engine, stored, inner = f"layers.{i}", names.layer.format(i), spec.intermediate_size
    if spec.moe is not None and spec.is_sparse(i):
        yield from _experts(spec, spec.moe, names, i)
        return
    rows = (inner,) * (2 if spec.gated_mlp else 1)
    up = _fused(stored, names.up, rows, spec.hidden_size, names)
    down = _matrix(stored, names.down, spec.hidden_size, inner, names)
    yield from _rows(f"{engine}.{spec.up_name}", up, spec.mlp_bias).items()
    yield from _columns(f"{engine}.down", down, spec.mlp_bias).items()


def _experts(
    spec: ModelSpec, moe: MoeSpec, names: WeightNames, i: int
) -> Iterator[tuple[str, WeightSource]]:
    """All experts' matrices are one, an expert's rows after the other's, its gate before its up."""
    engine, stored, hidden = f"layers.{i}", names.layer.format(i), spec.hidden_size
    experts = [f"{stored}.{names.expert.format(e)}" for e in range(moe.num_experts)]

    def matrix(module: str, name: str, rows: int, columns: int) -> Stored:
        return Stored(name=f"{module}.{name}.weight", shape=(rows, columns))

    inner = moe.intermediate_size
    up = [matrix(e, name, inner, hidden) for e in experts for name in names.expert_up]
    down = [matrix(e, names.expert_down, hidden, inner) for e in experts]
    router = matrix(stored, names.router, moe.num_experts, hidden)
    yield f"{engine}.router", WeightSource(tensors=(router,))
    yield f"{engine}.experts_up", WeightSource(tensors=tuple(up), shard="rows")
    yield f"{engine}.experts_down", WeightSource(tensors=tuple(down), shard="columns")
    if not moe.shared_size:
        return
    shared = f"{stored}.{names.shared_expert}"
    up = [matrix(shared, name, moe.shared_size, hidden) for name in names.expert_up]
    down = [matrix(shared, names.expert_down, hidden, moe.shared_size)]
    yield f"{engine}.gate_up", WeightSource(tensors=tuple(up), shard="rows")
    yield f"{engine}.down", WeightSource(tensors=tuple(down), shard="columns")
    gate = matrix(stored, names.shared_gate, 1, hidden)
    yield f"{engine}.shared_gate", WeightSource(tensors=(gate,))


def _norms(spec: ModelSpec, names: WeightNames, i: int) -> Sources:
    kinds = [] if spec.block == "post" else ["input_norm"]
    if spec.block not in ("parallel_shared", "post"):
        kinds.append("post_norm")
    if spec.block in ("sandwich", "post"):
        kinds += ["attention_out_norm", "mlp_out_norm"]
    layer = names.layer.format(i)
    found: Sources = {}
    for kind in kinds:
        found |= _norm(spec, names, f"layers.{i}.{kind}", f"{layer}.{getattr(names, kind)}")
    return found


def _norm(
    spec: ModelSpec, names: WeightNames, engine: str, module: str, scale: float = 1.0
) -> Sources:
    weight = Stored(name=f"{module}.weight", shape=(spec.hidden_size,))
    sources = {
        engine: WeightSource(
            tensors=(weight,), quantize=False, offset=names.norm_offset, scale=scale
        )
    }
    if spec.norm_bias:
        bias = Stored(name=f"{module}.bias", shape=(spec.hidden_size,))
        sources[f"{engine}.bias"] = WeightSource(tensors=(bias,), quantize=False, scale=scale)
    return sources


def _fused(
    layer: str,
    modules: tuple[str, ...],
    rows: tuple[int, ...],
    columns: int,
    names: WeightNames,
    groups: int = 1,
) -> tuple[Stored, ...]:
    """The weights of `modules`, which hold `rows` of each part, one each or all in one."""
    if len(modules) == len(rows):
        parts = zip(modules, rows, strict=True)
        return tuple(_matrix(layer, module, size, columns, names) for module, size in parts)
    (module,) = modules
    shape = (columns, sum(rows)) if names.transposed else (sum(rows), columns)
    sizes = tuple(size // groups for size in rows)
    name = f"{layer}.{module}.weight"
    transposed = names.transposed
    stored = Stored(name=name, shape=shape, transposed=transposed, groups=groups, sizes=sizes)
    return (stored,)


def _matrix(layer: str, module: str, rows: int, columns: int, names: WeightNames) -> Stored:
    shape = (columns, rows) if names.transposed else (rows, columns)
    return Stored(name=f"{layer}.{module}.weight", shape=shape, transposed=names.transposed)


def _rows(
    name: str,
    tensors: tuple[Stored, ...],
    has_bias: bool,
    heads: tuple[int, int] | None = None,
    pairs: HeadPairs | None = None,
) -> Sources:
    sources = {name: WeightSource(tensors=tensors, shard="rows", heads=heads, pairs=pairs)}
    if has_bias:
        biases = tuple(_bias_of(tensor) for tensor in tensors)
        sources[f"{name}.bias"] = WeightSource(
            tensors=biases, shard="rows", quantize=False, heads=heads, pairs=pairs
        )
    return sources


def _columns(
    name: str, tensor: Stored, has_bias: bool, heads: tuple[int, int] | None = None
) -> Sources:
    """The ranks' products are summed: the bias is whole on every rank, and one of them adds it."""
    sources = {name: WeightSource(tensors=(tensor,), shard="columns", heads=heads)}
    if has_bias:
        sources[f"{name}.bias"] = WeightSource(tensors=(_bias_of(tensor),), quantize=False)
    return sources


def _bias_of(weight: Stored) -> Stored:
    """It has the weight's rows."""
    return Stored(
        name=f"{weight.name.removesuffix('.weight')}.bias",
        shape=(weight.shape[1] if weight.transposed else weight.shape[0],),
        groups=weight.groups,
        sizes=weight.sizes,
    )
