"""How large a model is, in plain data: all that memory and speed depend on.

A manifest states it, and a `ModelSpec` gives it, so that a family can be sized and ranked before
its architecture is served.
"""

from dataclasses import dataclass

from pydantic import NonNegativeInt, PositiveInt

from nimlite.models.spec import ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """The sizes of a decoder, and of what reads its prompts where that is an encoder."""

    architecture: str
    """Hugging Face's class name, such as LlamaForCausalLM."""
    num_layers: PositiveInt
    hidden_size: PositiveInt
    num_heads: PositiveInt
    num_kv_heads: PositiveInt
    head_dim: PositiveInt
    intermediate_size: PositiveInt
    vocab_size: PositiveInt
    max_positions: PositiveInt
    tie_embeddings: bool = False
    gated_mlp: bool = True
    """Three matrices (gate, up, down) instead of two."""
    num_experts: PositiveInt = 1
    """MLPs a layer; of more than one, a router chooses for every token."""
    experts_per_token: PositiveInt = 1
    sliding_window: PositiveInt | None = None
    """Tokens that a windowed layer looks back at; None: all."""
    num_windowed_layers: NonNegativeInt = 0
    causal: bool = True
    """False: texts are computed whole, and no keys and values are kept."""
    num_encoder_layers: NonNegativeInt = 0
    """Of an encoder, in the decoder's sizes. Each of the decoder's layers then has a second
    attention, whose keys and values are the prompt's."""
    learned_positions: bool = False
    """A vector for each position, instead of a rotation."""
    checkpoint_parameters: PositiveInt | None = None
    """As the checkpoint's own tensors add up; None: it is not at hand."""

    @classmethod
    def of(cls, spec: ModelSpec) -> "ModelShape":
        """The shape of a model that is served."""
        return cls(
            architecture=spec.architecture,
            num_layers=spec.num_layers,
            hidden_size=spec.hidden_size,
            num_heads=spec.num_heads,
            num_kv_heads=spec.num_kv_heads,
            head_dim=spec.head_dim,
            intermediate_size=spec.moe.intermediate_size if spec.moe else spec.intermediate_size,
            vocab_size=spec.vocab_size,
            max_positions=spec.max_positions,
            tie_embeddings=spec.tie_embeddings,
            gated_mlp=spec.gated_mlp,
            num_experts=spec.moe.num_experts if spec.moe else 1,
            experts_per_token=spec.moe.experts_per_token if spec.moe else 1,
            # shared experts and layers without any stand in no field
            checkpoint_parameters=spec.num_parameters if spec.moe else None,
            causal=spec.causal,
            num_encoder_layers=spec.encoder.num_layers if spec.encoder else 0,
            learned_positions=spec.learned_positions,
            sliding_window=max(spec.windows, default=0) or None,
            num_windowed_layers=sum(window > 0 for window in spec.windows),
        )

    @property
    def qkv_size(self) -> int:
        """Rows of the query, key and value matrices together."""
        return (self.num_heads + 2 * self.num_kv_heads) * self.head_dim

    @property
    def attention_parameters(self) -> int:
        """Of one layer's four matrices."""
        return self.hidden_size * (self.qkv_size + self.num_heads * self.head_dim)

    @property
    def mlp_parameters(self) -> int:
        """Of one MLP, or of one expert."""
        return (3 if self.gated_mlp else 2) * self.hidden_size * self.intermediate_size

    @property
    def layer_parameters(self) -> int:
        """Matrices of all layers: what is held in the profile's precision."""
        router = self.hidden_size * self.num_experts if self.num_experts > 1 else 0
        attentions = self.attention_parameters * (2 if self.num_encoder_layers else 1)
        layer = attentions + self.num_experts * self.mlp_parameters + router
        return self.num_layers * layer + self.encoder_parameters

    @property
    def encoder_parameters(self) -> int:
        """Of these, those that only a prompt is multiplied with."""
        return self.num_encoder_layers * (self.attention_parameters + self.mlp_parameters)

    @property
    def head_parameters(self) -> int:
        return self.vocab_size * self.hidden_size

    @property
    def embedding_parameters(self) -> int:
        """Of the tables that no product reads whole: tokens, unless the head is the same table,
        and positions."""
        tokens = 0 if self.tie_embeddings else self.head_parameters
        tables = (2 if self.num_encoder_layers else 1) if self.learned_positions else 0
        return tokens + tables * self.max_positions * self.hidden_size

    @property
    def vector_parameters(self) -> int:
        """Norms and biases, as many as any family has: an upper bound, small beside the rest."""
        mlp = (2 * self.intermediate_size + self.hidden_size) * self.num_experts
        stacks = 2 if self.num_encoder_layers else 1
        layers = stacks * self.num_layers + self.num_encoder_layers
        return layers * (self.qkv_size + mlp + 5 * self.hidden_size) + stacks * self.hidden_size

    @property
    def num_parameters(self) -> int:
        """All of them, norms and biases left out."""
        return self.layer_parameters + self.head_parameters + self.embedding_parameters

    @property
    def unknown_parameters(self) -> int:
        """What the checkpoint has beyond the sizes above."""
        known = self.num_parameters + self.vector_parameters
        return max(0, (self.checkpoint_parameters or 0) - known)

    @property
    def num_active_parameters(self) -> int:
        """What one token is multiplied with: of the experts only its own, and no embedding."""
        idle = self.num_layers * (self.num_experts - self.experts_per_token) * self.mlp_parameters
        return self.layer_parameters - idle + self.head_parameters

    def kv_elements(self, num_tokens: int) -> int:
        """Keys and values of `num_tokens`, over all layers: what a prompt needs to be admitted. A
        layer with a window keeps as many, for all layers share their block tables; where every
        layer has one, a sequence gives its oldest blocks back as it goes on."""
        layers = self.num_layers if self.causal else 1
        return 2 * layers * num_tokens * self.num_kv_heads * self.head_dim
