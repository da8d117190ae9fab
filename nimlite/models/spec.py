"""What an architecture is made of, in plain data. No parallelism, no quantization, no device.

A family's file (`families/llama.py`) turns a Hugging Face config into a `ModelSpec` and says which
checkpoint tensors make up each engine tensor. Every decoder shares one forward
(`layers/decoder.py`) that is composed from the spec when it is loaded; what reads the prompts of an
encoder-decoder is a spec of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Activation = Literal["silu", "gelu", "gelu_tanh", "relu", "relu2"]
"""gelu_tanh: by the tanh approximation. relu2: relu, squared."""
BlockKind = Literal["sequential", "sandwich", "parallel", "parallel_shared", "post"]
"""Where the norms of a block stand.

sequential: x += attention(norm(x)); x += mlp(norm(x)).
sandwich: the same, with a norm on what each of them adds too.
parallel: x += attention(norm(x)) + mlp(norm(x)), each behind a norm of its own.
parallel_shared: both behind the same norm.
post: x = norm(x + attention(x)); x = norm(x + mlp(x)): what comes in is normed, and what comes out.
"""
ENCODER = "encoder."
"""What the names of an encoder's engine tensors begin with, beside a decoder's."""
NUM_SOURCE_TOKENS = 32
"""Where one text is given for both, as in a self-test, the encoder reads so many of its first
tokens, and the decoder all: what it goes on with depends on nothing later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeSpec:
    """Rotary positions. `scaling` is Hugging Face's `rope_parameters`, read by layers/rotary.py."""

    theta: float = 10_000.0
    dim: int | None = None
    """The first dimensions of each head that turn; None: all."""
    interleaved: bool = False
    """The checkpoint's heads hold the two of a pair side by side (GPT-J) and not half a head apart.
    Their rows are put in order when they are converted: nothing later knows."""
    scaling: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RelativeBias:
    """What is added to a score by the distance between query and key, learned for each head and
    shared by all layers (T5: Raffel et al., 2019, arXiv:1910.10683)."""

    num_buckets: int
    """Of distances, each with one value: half of them for one distance each, the others for more
    and more. Of an encoder's, one half is for keys behind the query."""
    max_distance: int
    """From here on all share the last bucket."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MoeSpec:
    """Of a layer whose MLP is many, a few of which a router chooses for each token (Shazeer et al.,
    2017, arXiv:1701.06538): a softmax over all experts, and the likeliest of them."""

    num_experts: int
    experts_per_token: int
    intermediate_size: int
    """Of one expert."""
    normalize: bool = True
    """The weights of the chosen ones are made to sum up to 1."""
    shared_size: int = 0
    """Intermediate size of an expert that every token passes, weighed by a sigmoid of its own; 0:
    there is none."""
    dense_layers: tuple[int, ...] = ()
    """Layers that have a plain MLP."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A decoder, or an encoder. Defaults are Llama's ways."""

    architecture: str
    """Hugging Face's class name, such as LlamaForCausalLM."""
    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    max_positions: int
    norm_eps: float
    norm: Literal["rms", "layer"] = "rms"
    norm_bias: bool = False
    block: BlockKind = "sequential"
    activation: Activation = "silu"
    gated_mlp: bool = True
    moe: MoeSpec | None = None
    rope: RopeSpec | None = field(default_factory=RopeSpec)
    """None: nothing turns."""
    local_rope: RopeSpec | None = None
    """Of the layers with a window, where it differs."""
    learned_positions: bool = False
    """A vector for each position is added to the embedding."""
    token_types: int = 0
    """Kinds of tokens with a vector each. Those of the first kind are all that are computed, and
    its vector is added to the embedding."""
    alibi_slopes: tuple[float, ...] = ()
    """By query head, what a score loses for each token between query and key (Press et al., 2021,
    arXiv:2108.12409)."""
    windows: tuple[int, ...] = ()
    """By layer, how many tokens a query sees, itself included; 0: all. Empty: all, everywhere."""
    attention_scale: float | None = None
    """What scores are multiplied with; None: 1 / sqrt(head_dim)."""
    attention_soft_cap: float = 0.0
    """Scores are bent to lie between ± this; 0: not."""
    causal: bool = True
    """False: each token sees the whole text, which is computed at once."""
    relative_bias: RelativeBias | None = None
    qk_norm: bool = False
    """Each query and key head passes an RMSNorm before it turns."""
    clip_qkv: float = 0.0
    """Queries, keys and values are cut off at ± this; 0: not."""
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    embedding_scale: float = 1.0
    embedding_norm: bool = False
    tie_embeddings: bool = False
    head_bias: bool = False
    logit_scale: float = 1.0
    logit_soft_cap: float = 0.0
    """Logits are bent to lie between ± this; 0: not."""
    encoder: "ModelSpec | None" = None
    """What reads a prompt, with heads like the decoder's and the same embedding. In each layer the
    decoder then attends to it, too, between attention and MLP; and its own text is what it writes.
    """
    decoder_prompt: tuple[int, ...] = ()
    """What the text of a decoder with an encoder begins with."""

    def __post_init__(self) -> None:
        assert len(self.windows) in (0, self.num_layers)
        assert self.causal or not (self.windows or self.encoder), "not known of any model"
        assert self.encoder is None or (self.decoder_prompt and not self.encoder.causal)
        assert self.encoder is None or self.block in ("sequential", "post")
        assert len(self.alibi_slopes) in (0, self.num_heads)

    @property
    def qkv_size(self) -> int:
        """Rows of the fused QKV matrix: all query heads, then all key heads, then all value
        heads."""
        return (self.num_heads + 2 * self.num_kv_heads) * self.head_dim

    @property
    def scale(self) -> float:
        """What scores are multiplied with."""
        return self.head_dim**-0.5 if self.attention_scale is None else self.attention_scale

    @property
    def up_size(self) -> int:
        """Rows of the first matrix of the MLP: gate and up, or up alone."""
        return self.intermediate_size * (2 if self.gated_mlp else 1)

    @property
    def up_name(self) -> str:
        """What that matrix is called in an engine."""
        return "gate_up" if self.gated_mlp else "up"

    def is_sparse(self, layer: int) -> bool:
        """Whether the layer's MLP is experts."""
        return self.moe is not None and layer not in self.moe.dense_layers

    @property
    def num_parameters(self) -> int:
        """Parameters, with a tied embedding counted once and norms and biases left out."""
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_embeddings else 2)
        encoder = self.encoder.stack_parameters if self.encoder else 0
        return self.stack_parameters + encoder + embeddings

    @property
    def stack_parameters(self) -> int:
        """Of the layers and the positions."""
        attention = self.hidden_size * (self.qkv_size + self.num_heads * self.head_dim)
        attentions = self.num_layers * (2 if self.encoder else 1)
        mlps = sum(self._mlp_parameters(layer) for layer in range(self.num_layers))
        positions = self.max_positions * self.hidden_size if self.learned_positions else 0
        return attentions * attention + mlps + positions

    def _mlp_parameters(self, layer: int) -> int:
        if self.moe is None or not self.is_sparse(layer):
            return self.hidden_size * (self.up_size + self.intermediate_size)
        experts = 3 * self.moe.num_experts * self.moe.intermediate_size + self.moe.num_experts
        shared = 3 * self.moe.shared_size + bool(self.moe.shared_size)
        return self.hidden_size * (experts + shared)

    def kv_bytes_per_token(self, element_bytes: float) -> float:
        """Bytes of keys and values that one token takes in the pool."""
        return 2 * self.num_kv_layers * self.num_kv_heads * self.head_dim * element_bytes

    @property
    def num_kv_layers(self) -> int:
        """Layers whose keys and values are kept apart: where a text is computed at once, each
        layer's take the place of those before."""
        return self.num_layers if self.causal else 1

    def window(self, layer: int) -> int:
        """Tokens that a query of the layer sees; 0: all."""
        return self.windows[layer] if self.windows else 0

    @property
    def widest_window(self) -> int:
        """Tokens that any layer sees of a text, the newest included; 0: all."""
        return max(self.windows) if self.windows and all(self.windows) else 0

    def rope_of(self, layer: int) -> RopeSpec | None:
        """The layer's rotary positions."""
        local = self.local_rope is not None and self.window(layer)
        return self.local_rope if local else self.rope

    def shortest(self) -> "ModelSpec":
        """The first layers alone, as many as hold one of each kind."""
        kinds = [(self.window(i), self.is_sparse(i)) for i in range(self.num_layers)]
        count = 1 + max(kinds.index(kind) for kind in kinds)
        encoder = self.encoder and self.encoder.shortest()
        return replace(self, num_layers=count, windows=self.windows[:count], encoder=encoder)

    def inputs_of(self, linear: str) -> tuple[str, ...]:
        """The engine tensors whose elements stand before one input feature each of the engine
        tensor `linear`, and of nothing else: its norm's. Empty where there are none."""
        if self.encoder is not None and linear.startswith(ENCODER):
            found = self.encoder.inputs_of(linear.removeprefix(ENCODER))
            return tuple(f"{ENCODER}{name}" for name in found)
        layer, _, name = linear.rpartition(".")
        if self.block in ("parallel_shared", "post") or not layer.startswith("layers."):
            return ()
        norms = {"qkv": "input_norm", "cross_q": "cross_norm", self.up_name: "post_norm"}
        norm = norms.get(name)
        is_shared = name == self.up_name and self.is_sparse(int(layer.rpartition(".")[2]))
        if norm is None or is_shared:
            return ()
        weight = f"{layer}.{norm}"
        return (weight, f"{weight}.bias") if self.norm_bias else (weight,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A tensor of the checkpoint, and the parts that it comes apart into."""

    name: str
    shape: tuple[int, ...]
    """As it is stored: [output features, input features] of a matrix."""
    transposed: bool = False
    """It is stored as [input features, output features]."""
    skip: int = 0
    """Rows at the beginning that are left out."""
    groups: int = 1
    """Its rows are so many equal groups, and each holds a share of every part."""
    sizes: tuple[int, ...] = ()
    """Rows of each part in a group; empty: the tensor is one part."""
    turned: bool = False
    """Each part is stored as [input features, output features]."""
    optional: bool = False
    """Where the checkpoint lacks it, it is zero."""
    otherwise: str = ""
    """Its name where the checkpoint lacks `name`."""

    @property
    def part_rows(self) -> tuple[int, ...]:
        """Rows of each part."""
        if self.turned:
            return (self.shape[1],) * len(self.sizes)
        rows = self.shape[-1] if self.transposed else self.shape[0]
        return tuple(self.groups * size for size in self.sizes) or (rows - self.skip,)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadPairs:
    """Rows to be put in another order: of each head of the first two parts (queries and keys), the
    first `rotary_dim` rows hold pairs side by side, and their halves shall be apart."""

    head_dim: int
    rotary_dim: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightSource:
    """How one engine tensor is made: the parts of all checkpoint tensors, concatenated along
    dimension 0."""

    tensors: tuple[Stored, ...]
    shard: Literal["rows", "columns", "none"] = "none"
    """Which dimension tensor parallelism splits: rows = output features of each part, columns =
    input features."""
    quantize: bool = True
    """False for norms and biases, which stay in fp32."""
    heads: tuple[int, int] | None = None
    """Query and key/value heads, where the split dimension is heads: of rows all queries', keys'
    and values', of columns the queries'. None: features."""
    pairs: HeadPairs | None = None
    offset: float = 0.0
    """Is added to every element."""
    scale: float = 1.0
    """What every element is multiplied with, after that."""
    unit_rows: bool = False
    """Every row is divided by its length."""
    alternate: bool = False
    """The parts of two tensors take turns: of each expert's gate and up."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the checkpoint's tensors."""
        return tuple(tensor.name for tensor in self.tensors)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole engine tensor."""
        first = self.tensors[0]
        rows = sum(size for tensor in self.tensors for size in tensor.part_rows)
        if len(first.shape) == 1:
            return (rows,)
        if first.turned:
            return (rows, first.sizes[0])
        return (rows, first.shape[0] if first.transposed else first.shape[1])
