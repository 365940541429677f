"""A new train.yml is ai-toolkit's example for 24 GB with the recipe's five changes, and keeps the template's comments."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.lint.check import check
from training.lint.registry import Subject
from training.train_file import PROMPTS, TEMPLATE, new_train_yml
from training.trainer_config import accepted_document, document_of, read_trainer_file

# config/examples/train_lora_flux_24gb.yaml of ostris/ai-toolkit: what the recipe does not change.
EXAMPLE = {
    "network": {"type": "lora", "linear": 16, "linear_alpha": 16},
    "train": {
        "batch_size": 1,
        "steps": 2000,
        "gradient_accumulation_steps": 1,
        "train_unet": True,
        "train_text_encoder": False,
        "gradient_checkpointing": True,
        "noise_scheduler": "flowmatch",
        "optimizer": "adamw8bit",
        "lr": 1e-4,
        "ema_config": {"use_ema": True, "ema_decay": 0.99},
        "dtype": "bf16",
    },
}
TEXTS = st.text(st.characters(categories=["L", "N", "P", "Zs", "S"]), min_size=1, max_size=20).filter(
    str.isprintable
)


def process_of(text: str) -> dict[str, object]:
    process = document_of((text).encode())["config"]["process"][0]
    assert isinstance(process, dict)
    return process


def test_what_the_recipe_does_not_change_is_as_in_the_example() -> None:
    process = process_of(new_train_yml("cat", "word"))
    assert {key: process[key] for key in EXAMPLE} == EXAMPLE


def test_the_recipes_five_changes_are_made() -> None:
    document = document_of(new_train_yml("cat", "word", ["[trigger] at sea", 'say "hi": #1']).encode())
    process = document["config"]["process"][0]
    assert document["config"]["name"] == "cat"
    assert process["datasets"][0]["folder_path"] == "dataset"
    assert process["model"]["name_or_path"] == "/model"
    assert process["sample"]["prompts"] == ["[trigger] at sea", 'say "hi": #1']
    # The recipe keeps 2; what the trainer deletes is deleted in the bucket, so here it is more than a run writes.
    assert (
        process["save"]["max_step_saves_to_keep"] > process["train"]["steps"] / process["save"]["save_every"]
    )
    assert process["trigger_word"] == "word"


def test_every_comment_of_the_template_is_kept() -> None:
    comments = [
        line for line in TEMPLATE.read_text(encoding="utf-8").splitlines() if line.lstrip().startswith("#")
    ]
    made = new_train_yml("cat", "word").splitlines()
    assert [line for line in made if line.lstrip().startswith("#")] == comments
    assert sum("!" in comment for comment in comments) == 6  # the five, and the line that says what `!` means


@settings(max_examples=15, deadline=None)
@given(TEXTS, st.lists(TEXTS, min_size=1, max_size=4))
def test_any_word_and_any_prompt_arrive_as_they_are(trigger: str, prompts: list[str]) -> None:
    process = process_of(new_train_yml("cat", trigger, prompts))
    assert process["trigger_word"] == trigger
    assert process["sample"]["prompts"] == prompts  # type: ignore[index]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_prompts_that_nobody_chose_have_the_trigger_word(prompt: str) -> None:
    assert "[trigger]" in prompt


def test_lint_has_nothing_to_say_of_a_new_train_yml(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat/train.yml").write_text(new_train_yml("cat", "word"), encoding="utf-8")
    assert check(Subject("cat", tmp_path / "cat", read_trainer_file(tmp_path / "cat"), None)) == []


@pytest.mark.parametrize("raw", [b"a: " + b"[" * 100_000, b"- " * 100_000, b"? " * 100_000])
def test_what_a_node_nested_without_end_is_an_empty_document(raw: bytes) -> None:
    assert document_of(raw) == {}


@pytest.mark.parametrize("head", ["", "%YAML 1.3\n---\n"])
def test_what_was_accepted_here_is_read_as_ai_toolkit_reads_it(head: str) -> None:
    text = (
        head
        + "job: extension\nconfig:\n  name: cat\n  process: [{lr: 1e-4, model: {quantize: true, lora:}}]\n"
    )
    assert accepted_document(text.encode()) == document_of(text.encode())
    assert accepted_document(text.encode())["config"]["process"][0]["lr"] == 0.0001
