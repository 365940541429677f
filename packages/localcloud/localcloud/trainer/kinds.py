"""How ai-toolkit names the tensors of a LoRA for each kind of model (`model.arch`), and the kind in the file's metadata.

Sources: convert_lora_weights_before_save and get_base_model_version of the model classes, toolkit/network_mixins.py, toolkit/metadata.py.
"""

from typing import NamedTuple

# If `model.arch` is not set, ai-toolkit's ModelConfig (toolkit/config_modules.py) looks for these
# keys in this order.
FLAGS = {"is_v3": "sd3", "is_xl": "sdxl", "is_flux": "flux", "is_lumina2": "lumina2"}


class LoraNames(NamedTuple):
    """`modules`: of the stand-in's six layers, in their order. `parts`: how the two matrices of a layer end.

    `stages`: endings of the files. With two, the first three layers belong to the first file.
    """

    prefix: str
    modules: tuple[str, ...]
    base: str
    parts: tuple[str, str] = (".lora_A.weight", ".lora_B.weight")
    stages: tuple[str, ...] = ("",)


def blocks(pattern: str, first: str, second: str) -> tuple[str, ...]:
    """Two linear layers in each of three blocks."""
    return tuple(pattern.format(number) + end for number in range(3) for end in (first, second))


DIFFUSERS_FLUX = (
    *blocks("transformer_blocks.{}.", "ff.net.0.proj", "ff.net.2")[:4],
    "single_transformer_blocks.0.proj_mlp",
    "single_transformer_blocks.0.proj_out",
)
ORIGINAL_FLUX = (
    *blocks("double_blocks.{}.", "img_mlp.0", "img_mlp.2")[:4],
    "single_blocks.0.linear1",
    "single_blocks.0.linear2",
)
QWEN = blocks("transformer_blocks.{}.img_mlp.net.", "0.proj", "2")
WAN = blocks("blocks.{}.ffn.", "0", "2")
UNET = blocks("down_blocks_1_attentions_0_transformer_blocks_{}_ff_net_", "0_proj", "2")
# ai-toolkit saves Wan 2.2 as two files whose tensors have the same names (save_lora in wan22_14b_model.py).
WAN22 = (*WAN[:3], *WAN[:3])
NOISE_STAGES = ("_high_noise", "_low_noise")
KOHYA = (".lora_down.weight", ".lora_up.weight")

KINDS = {
    "flux": LoraNames("transformer.", DIFFUSERS_FLUX, "flux1"),
    "flux_kontext": LoraNames("transformer.", DIFFUSERS_FLUX, "flux.1_kontext"),
    "flex1": LoraNames("transformer.", DIFFUSERS_FLUX, "flex1"),
    "flex2": LoraNames("transformer.", DIFFUSERS_FLUX, "flex2"),
    "flux2": LoraNames("diffusion_model.", ORIGINAL_FLUX, "flux2"),
    "flux2_klein_4b": LoraNames("diffusion_model.", ORIGINAL_FLUX, "flux2_klein_4b"),
    "flux2_klein_9b": LoraNames("diffusion_model.", ORIGINAL_FLUX, "flux2_klein_9b"),
    "chroma": LoraNames("diffusion_model.", ORIGINAL_FLUX, "chroma"),
    "qwen_image": LoraNames("diffusion_model.", QWEN, "qwen_image"),
    "qwen_image_edit": LoraNames("diffusion_model.", QWEN, "qwen_image"),
    "qwen_image_edit_plus": LoraNames("diffusion_model.", QWEN, "qwen_image"),
    "zimage": LoraNames("diffusion_model.", blocks("layers.{}.feed_forward.", "w1", "w2"), "zimage"),
    "hidream": LoraNames(
        "diffusion_model.", blocks("double_stream_blocks.{}.block.attn1.", "to_q", "to_out"), "hidream_i1"
    ),
    "hidream_e1": LoraNames(
        "diffusion_model.", blocks("double_stream_blocks.{}.block.attn1.", "to_q", "to_out"), "hidream_i1"
    ),
    "lumina2": LoraNames("transformer.", blocks("layers.{}.feed_forward.linear_", "1", "2"), "lumina2"),
    "omnigen2": LoraNames("diffusion_model.", blocks("layers.{}.feed_forward.linear_", "1", "2"), "omnigen2"),
    "sd3": LoraNames("transformer.", blocks("transformer_blocks.{}.ff.net.", "0.proj", "2"), "sd_3"),
    "sdxl": LoraNames("lora_unet_", UNET, "sdxl_1.0", KOHYA),
    "sd1": LoraNames("lora_unet_", UNET, "sd_1.5", KOHYA),
    "wan21": LoraNames("diffusion_model.", WAN, "wan_2.1"),
    "wan21_i2v": LoraNames("diffusion_model.", WAN, "wan_2.1"),
    "wan22_14b": LoraNames("diffusion_model.", WAN22, "wan_2.2_14b", stages=NOISE_STAGES),
    "wan22_14b_i2v": LoraNames("diffusion_model.", WAN22, "wan_2.2_14b", stages=NOISE_STAGES),
    "wan22_5b": LoraNames("diffusion_model.", WAN, "wan_2.2_5b"),
    "ltx2": LoraNames("diffusion_model.", blocks("transformer_blocks.{}.ff.net.", "0.proj", "2"), "ltx2"),
}


def names_of(model: dict[str, object]) -> LoraNames:
    """The names for a `model` section. Kinds that have no entry here are named like FLUX.1."""
    flag = next((arch for key, arch in FLAGS.items() if model.get(key)), "sd1")
    arch = str(model.get("arch") or flag).split(":")[0]
    return KINDS.get(arch, KINDS["flux"])
