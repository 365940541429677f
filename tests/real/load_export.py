"""Loads an exported LoRA as its users do: python load_export.py MODEL FOLDER WEIGHTS. Needs diffusers, peft and huggingface_hub.

Prints one line of JSON: the card's data, the adapters, and how far an image differs from that without the LoRA.
"""

import json
import sys

import torch
from diffusers import FluxPipeline
from huggingface_hub import ModelCard


def main(model: str, folder: str, weights: str) -> None:
    card = ModelCard.load(f"{folder}/README.md")
    pipeline = FluxPipeline.from_pretrained(model)
    before = image_of(pipeline)
    pipeline.load_lora_weights(folder, weight_name=weights)
    found = {
        "card": card.data.to_dict(),
        "adapters": pipeline.get_active_adapters(),
        "changed": float((image_of(pipeline) - before).abs().max()),
    }
    print(json.dumps(found))


def image_of(pipeline: FluxPipeline) -> torch.Tensor:
    """Latents of one small image, always from the same noise."""
    options = {"height": 64, "width": 64, "num_inference_steps": 2, "max_sequence_length": 16}
    noise = torch.Generator().manual_seed(0)
    return pipeline("a cat", generator=noise, output_type="latent", **options).images


main(*sys.argv[1:])
