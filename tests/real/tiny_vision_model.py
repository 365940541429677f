"""A LLaVA small enough for two cores, as a folder that `transformers serve` loads: FOLDER [PROMPT CAPTION].

With random weights it writes noise. With a prompt and a caption it is trained until it answers that prompt with that caption. Run by a Python
that has torch and transformers.
"""

# mypy: ignore-errors
# torch and transformers are in no environment of this project.

import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

SPECIAL = ("<pad>", "<s>", "</s>", "<image>")
PAD, BEGIN, END, IMAGE = range(4)
SIDE, PATCH = 56, 14
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}"
)
MAX_STEPS, GOOD_LOSS = 600, 0.03


def build_processor() -> LlavaProcessor:
    """Bytes are its tokens, and the words of one sentence."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=list(SPECIAL), initial_alphabet=alphabet)
    tokenizer.train_from_iterator(["a ginger cat looks up at the sky"] * 9, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=SPECIAL[PAD], bos_token=SPECIAL[BEGIN], eos_token=SPECIAL[END]
    )
    images = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=SIDE)
    return LlavaProcessor(
        images,
        fast,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        chat_template=TEMPLATE,
        num_additional_image_tokens=1,
    )


def build_model(words: int) -> LlavaForConditionalGeneration:
    torch.manual_seed(0)
    text = LlamaConfig(
        **SIZES,
        vocab_size=words,
        pad_token_id=PAD,
        bos_token_id=BEGIN,
        eos_token_id=END,
        num_key_value_heads=2,
    )
    vision = CLIPVisionConfig(**SIZES, image_size=SIDE, patch_size=PATCH, projection_dim=32)
    return LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE)
    )


def train(model: LlavaForConditionalGeneration, processor: LlavaProcessor, prompt: str, caption: str) -> None:
    """Until the model writes `caption` after `prompt` and any image. Fails if it does not learn that."""
    messages = [{"role": "user", "content": [{"type": "text", "text": prompt}, {"type": "image"}]}]
    asked = processor.apply_chat_template(messages, add_generation_prompt=True)
    length = None
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(MAX_STEPS):
        image = torch.randint(0, 256, (SIDE, SIDE, 3), dtype=torch.uint8).numpy()
        if length is None:
            length = processor(text=asked, images=image, return_tensors="pt")["input_ids"].shape[1]
        inputs = processor(text=asked + caption + SPECIAL[END], images=image, return_tensors="pt")
        labels = inputs["input_ids"].clone()
        labels[:, :length] = -100
        loss = model(**inputs, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < GOOD_LOSS:
            return
    sys.exit("the caption was not learned")


def main(folder: Path, lesson: list[str]) -> None:
    # More threads than free cores make it ten times slower.
    torch.set_num_threads(1)
    processor = build_processor()
    model = build_model(len(processor.tokenizer))
    model.generation_config.pad_token_id = PAD
    if lesson:
        train(model, processor, *lesson)
    else:
        model.generation_config.update(do_sample=True, temperature=3.0)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
