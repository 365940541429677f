"""The layers of FLUX.1 that a LoRA can train, as diffusers names them (FluxTransformer2DModel)."""

from collections.abc import Collection

# FLUX.1's largest layer is `norm1.linear`, with 3072 inputs, 6 * 3072 outputs and a bias.
MAX_LAYER_PARAMETERS = 3072 * 18432 + 18432
DOUBLE_BLOCKS, SINGLE_BLOCKS = 19, 38
DOUBLE = (
    *(
        "norm1.linear",
        "norm1_context.linear",
        "attn.to_q",
        "attn.to_k",
        "attn.to_v",
        "attn.add_q_proj",
        "attn.add_k_proj",
    ),
    *("attn.add_v_proj", "attn.to_out.0", "attn.to_add_out", "ff.net.0.proj", "ff.net.2"),
    *("ff_context.net.0.proj", "ff_context.net.2"),
)
SINGLE = ("norm.linear", "proj_mlp", "proj_out", "attn.to_q", "attn.to_k", "attn.to_v")
FLUX_LAYERS = (
    *(
        f"transformer.transformer_blocks.{number}.{name}"
        for number in range(DOUBLE_BLOCKS)
        for name in DOUBLE
    ),
    *(
        f"transformer.single_transformer_blocks.{number}.{name}"
        for number in range(SINGLE_BLOCKS)
        for name in SINGLE
    ),
)


def chosen_layers(only: Collection[str] | None, ignored: Collection[str]) -> list[str]:
    """The layers of FLUX.1 that ai-toolkit trains with these `only_if_contains` and `ignore_if_contains`."""
    return [
        name
        for name in FLUX_LAYERS
        if not any(part in name for part in ignored)
        # ai-toolkit also compares the entries with its internal layer names, which have
        # `$$` instead of dots.
        and (only is None or any(part.replace("$$", ".") in name for part in only))
    ]
