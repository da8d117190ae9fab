"""GPT-J: attention and MLP in parallel behind one LayerNorm, pairs that turn side by side, a head
with a bias."""

from nimlite.models.config import Config, activation, decoder_spec
from nimlite.models.spec import ModelSpec, RopeSpec
from nimlite.models.weights import Sources, WeightNames, decoder_weights

ARCHITECTURES = ("GPTJForCausalLM",)


def spec(config: Config) -> ModelSpec:
    hidden_size = config["n_embd"]
    named = {
        "hidden_size": hidden_size,
        "num_hidden_layers": config["n_layer"],
        "num_attention_heads": config["n_head"],
        "max_position_embeddings": config["n_positions"],
    }
    return decoder_spec(
        config | named,
        intermediate_size=config.get("n_inner") or 4 * hidden_size,
        norm="layer",
        norm_bias=True,
        norm_eps=config.get("layer_norm_epsilon", 1e-5),
        block="parallel_shared",
        activation=activation(config.get("activation_function", "gelu_new")),
        gated_mlp=False,
        rope=RopeSpec(dim=config.get("rotary_dim"), interleaved=True),
        mlp_bias=True,
        head_bias=True,
    )


def weights(spec: ModelSpec) -> Sources:
    return decoder_weights(
        spec,
        WeightNames(
            embedding="transformer.wte",
            layer="transformer.h.{}",
            input_norm="ln_1",
            qkv=("attn.q_proj", "attn.k_proj", "attn.v_proj"),
            output="attn.out_proj",
            up=("mlp.fc_in",),
            down="mlp.fc_out",
            final_norm="transformer.ln_f",
        ),
    )
