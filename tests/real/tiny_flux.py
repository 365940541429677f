"""Writes a tiny FLUX.1 with random weights in the folder layout of FLUX.1-dev (3 MB): `python tiny_flux.py FOLDER`.

Needs torch, diffusers and transformers: it runs in the trainer's environment, not in that of the tests.
"""

# mypy: ignore-errors  - the libraries are not in the environment that is checked

import json
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

WORDS = "a photograph of a cat on the windowsill in the morning sun d1sc number"
PARTS = {
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "text_encoder_2": ["transformers", "T5EncoderModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokenizer_2": ["transformers", "T5TokenizerFast"],
    "transformer": ["diffusers", "FluxTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def write_model(folder: Path) -> None:
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    FluxTransformer2DModel(
        patch_size=1,
        in_channels=64,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=32,
        num_attention_heads=2,
        joint_attention_dim=64,
        pooled_projection_dim=32,
        guidance_embeds=True,
        axes_dims_rope=(8, 12, 12),
    ).save_pretrained(folder / "transformer")
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 16, 32, 32),
        latent_channels=16,
        norm_num_groups=8,
        sample_size=64,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ).save_pretrained(folder / "vae")
    FlowMatchEulerDiscreteScheduler(
        shift=3.0, use_dynamic_shifting=True, base_image_seq_len=256, max_image_seq_len=4096
    ).save_pretrained(folder / "scheduler")
    size = write_clip_tokenizer(folder / "tokenizer")
    clip = CLIPTextConfig(
        vocab_size=size,
        hidden_size=32,
        intermediate_size=64,
        projection_dim=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=size - 2,
        eos_token_id=size - 1,
        pad_token_id=size - 1,
    )
    CLIPTextModel(clip).save_pretrained(folder / "text_encoder")
    write_t5_tokenizer(folder / "tokenizer_2")
    t5 = T5Config(
        vocab_size=256,
        d_model=64,
        d_kv=16,
        d_ff=64,
        num_layers=1,
        num_heads=4,
        feed_forward_proj="gated-gelu",
    )
    T5EncoderModel(t5).save_pretrained(folder / "text_encoder_2")
    index = {"_class_name": "FluxPipeline", "_diffusers_version": "0.30.0", **PARTS}
    (folder / "model_index.json").write_text(json.dumps(index))


def write_clip_tokenizer(folder: Path) -> int:
    """One token for each byte, and for each byte that ends a word. The number of tokens."""
    folder.mkdir()
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [chr(256 + number) for number in range(256 - len(shown))]
    characters = [*map(chr, shown), *hidden]
    ends = [f"{one}</w>" for one in characters]
    tokens = [*characters, *ends, "th", "<|startoftext|>", "<|endoftext|>"]
    marks = dict.fromkeys(("eos_token", "pad_token", "unk_token"), "<|endoftext|>")
    marks["bos_token"] = "<|startoftext|>"
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **marks}
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\nt h\n")
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "special_tokens_map.json").write_text(json.dumps(marks))
    return len(tokens)


def write_t5_tokenizer(folder: Path) -> None:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=200, special_tokens=special, unk_token="<unk>")
    letters = "".join(map(chr, range(33, 127)))
    tokenizer.train_from_iterator([WORDS] * 20 + [letters], trainer)
    end = [("</s>", tokenizer.token_to_id("</s>"))]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=end
    )
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    marks = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    config = {"tokenizer_class": "T5TokenizerFast", "model_max_length": 512, "extra_ids": 0, **marks}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


if __name__ == "__main__":
    write_model(Path(sys.argv[1]))
