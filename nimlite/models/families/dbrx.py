"""DBRX: experts behind LayerNorms, and queries, keys and values that are cut off."""

from nimlite.models.config import Config, activation, decoder_spec, unsupported
from nimlite.models.spec import ModelSpec, MoeSpec, RopeSpec, Stored, WeightSource
from nimlite.models.weights import Sources, WeightNames, decoder_weights

ARCHITECTURES = ("DbrxForCausalLM",)


def spec(config: Config) -> ModelSpec:
    attention, ffn = config["attn_config"], config["ffn_config"]
    norm = ffn.get("moe_normalize_expert_weights", 1.0)
    if norm not in (None, 1, 1.0):
        raise unsupported(config, f"experts' weights normalised by the {norm}-norm")
    moe = MoeSpec(
        num_experts=ffn["moe_num_experts"],
        experts_per_token=ffn["moe_top_k"],
        intermediate_size=ffn["ffn_hidden_size"],
        normalize=norm is not None,
    )
    keys = {
        "num_hidden_layers": config["n_layers"],
        "num_attention_heads": config["n_heads"],
        "num_key_value_heads": attention["kv_n_heads"],
        "hidden_size": config["d_model"],
        "max_position_embeddings": config["max_seq_len"],
    }
    return decoder_spec(
        config | keys,
        moe=moe,
        intermediate_size=ffn["ffn_hidden_size"],
        norm="layer",
        norm_eps=1e-5,
        activation=activation((ffn.get("ffn_act_fn") or {"name": "silu"})["name"]),
        rope=RopeSpec(theta=attention["rope_theta"]),
        clip_qkv=attention.get("clip_qkv") or 0.0,
    )


def weights(spec: ModelSpec) -> Sources:
    names = WeightNames(
        embedding="transformer.wte",
        final_norm="transformer.norm_f",
        layer="transformer.blocks.{}",
        input_norm="norm_attn_norm.norm_1",
        post_norm="norm_attn_norm.norm_2",
        qkv=("norm_attn_norm.attn.Wqkv",),
        output="norm_attn_norm.attn.out_proj",
        router="ffn.router.layer",
    )
    sources = decoder_weights(spec, names)
    moe = spec.moe
    assert moe is not None
    rows = (moe.intermediate_size,) * moe.num_experts
    shape = (sum(rows), spec.hidden_size)
    for i in range(spec.num_layers):
        experts = f"{names.layer.format(i)}.ffn.experts.mlp"
        up = tuple(Stored(name=f"{experts}.{w}", shape=shape, sizes=rows) for w in ("w1", "v1"))
        down = Stored(name=f"{experts}.w2", shape=shape, sizes=rows, turned=True)
        sources[f"layers.{i}.experts_up"] = WeightSource(tensors=up, shard="rows", alternate=True)
        sources[f"layers.{i}.experts_down"] = WeightSource(tensors=(down,), shard="columns")
    return sources
