"""The caption is found in a transcript, behind the repeated prompt, and beside its translation."""

import pytest

from flux_training.training.dataset.captions import INSTRUCTION, ModelResponse, caption_from, stricter
from flux_training.training.dataset.model_answers import clean_answer

# ruff: noqa: RUF001 - models answer in all languages

CAT = "A ginger cat sits on a sofa by the window."
CHINESE = "一只橘猫坐在窗边的沙发上。"
GERMAN = "Eine rote Katze sitzt am Fenster auf einem Sofa."
FRENCH = "Un chat roux est assis sur un canapé près de la fenêtre."
SPANISH = "Un gato naranja está sentado en un sofá junto a la ventana."

TWO_LANGUAGES = (
    f"{CHINESE}\n\n{CAT}",
    f"{CAT}\n\n{CHINESE}",
    f"{CHINESE}{CAT}",
    f"{FRENCH}\n\nTranslation: {CAT}",
    f"{FRENCH}\n\n(English translation: {CAT})",
    f"{GERMAN} (English: {CAT})",
    f"{GERMAN} ({CAT})",
    f"EN: {CAT} DE: {GERMAN}",
    f"DE: {GERMAN} EN: {CAT}",
    f"**English:** {CAT}\n\n**Chinese:** {CHINESE}",
    f"中文：{CHINESE}\n英文：{CAT}",
    f"{SPANISH} / {CAT}",
    f'"{SPANISH}" ("{CAT}")',
    f"{SPANISH}\n\nIn English: {CAT}\n\nLet me know if you need it in another language!",
    f"🇫🇷 {FRENCH}\n🇬🇧 {CAT}",
    f"🇺🇸: {CAT}\n🇩🇪: {GERMAN}",
    f"Translation: {CAT}",
    f"[EN] {CAT}\n[ES] {SPANISH}",
    f"Caption (French): {FRENCH}\nCaption (English): {CAT}",
    f"Caption (English): {CAT}\nCaption (French): {FRENCH}",
    f"1. English: {CAT}\n2. Spanish: {SPANISH}",
)
ONE_LANGUAGE = (
    'A man holds a sign that says "La casa de papel es una serie".',
    "A shop called Neko (猫) at night.",
    'A poster for the film "Il buono, il brutto, il cattivo" on a brick wall in the rain.',
    "A woman at a desk. A note reads «Je ne regrette rien, je ne regrette rien de rien» beside her.",
    "A red sign above a bakery. The letters 面包店 glow in the rain on the dark street behind it.",
    "Baked feijoada (a stew of beans) in a clay pot. Steam rises.",
    "A street in Rio de Janeiro / Copacabana at dusk.",
    "A dancer, Paris Opera (Palais Garnier), seen from above.",
    "お好み焼き (okonomiyaki) topped with bonito flakes and mayonnaise, steaming on an iron plate.",
    "Борщ (borscht) with sour cream in a clay bowl.",
    "김치찌개 (kimchi-jjigae) boils in a black stone pot.",
)


@pytest.mark.parametrize("answer", TWO_LANGUAGES)
def test_of_a_caption_in_two_languages_the_english_one_is_taken(answer: str) -> None:
    found = caption_from(ModelResponse(answer, "stop"))
    assert (found.text, found.is_foreign) == (CAT, False)


def test_sentences_that_are_translated_one_by_one_are_joined() -> None:
    answer = f"{GERMAN} {CAT} Ein Hund liegt vor der Tür auf dem Boden. A dog lies on the floor in front of the door."
    found = caption_from(ModelResponse(answer, "stop"))
    assert found.text == f"{CAT} A dog lies on the floor in front of the door."


@pytest.mark.parametrize("caption", ONE_LANGUAGE)
def test_words_of_another_language_in_a_caption_stay(caption: str) -> None:
    assert caption_from(ModelResponse(caption, "stop")).text == caption


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (f"Here is the caption in Spanish:\n{SPANISH}", SPANISH),
        (f"{SPANISH}\n\nI hope this helps!", SPANISH),
        (f"Je ne peux pas voir l'image. {CAT}", ""),
        ("抱歉，我无法看到这张图片。\n\nSorry, I cannot see this image.", ""),
    ],
)
def test_english_beside_another_language_is_not_always_a_caption(answer: str, text: str) -> None:
    assert caption_from(ModelResponse(answer, "stop")).text == text


def test_a_prompt_of_ones_own_may_ask_for_two_languages() -> None:
    found = caption_from(ModelResponse(f"{GERMAN}\n\n{CAT}", "stop"), "Describe it in German and in English.")
    assert found.text == f"{GERMAN} {CAT}"


TRANSCRIPTS = (
    f"system\nYou are a helpful assistant.\nuser\n{INSTRUCTION}\nassistant\n{CAT}",
    f"system\n\nCutting Knowledge Date: December 2023\n\nuser\n\nCaption this image.assistant\n\n{CAT}",
    f"user\nCaption it.\nassistant\n{CAT}\nuser\nThanks!\nassistant\nYou're welcome!",
    f"user\nWrite a caption for this image.\nmodel\n{CAT}",
    f"User: Describe this image.\nAssistant: {CAT}",
    f"Human: Describe this image.\n\nAssistant: {CAT}\n\nHuman: And the mood?",
    f"### Instruction:\nDescribe the image.\n\n### Response:\n{CAT}",
    f"Below is an instruction that describes a task.\n\n### Instruction:\nCaption it.\n\n### Response: {CAT}",
    f"A chat between a curious user and an artificial intelligence assistant. USER: <image> Caption it. ASSISTANT: {CAT}",
    f"USER: <image>\nDescribe it. ASSISTANT: {CAT}",
    f"<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nCaption it<|im_end|>\n<|im_start|>assistant\n{CAT}<|im_end|>",
    f"<|user|>\n<|image_1|>\nCaption it.<|end|>\n<|assistant|>\n{CAT}<|end|>",
    f"<s>system\nYou are an assistant.</s>\n<s>user\nCaption it.</s>\n<s>assistant\n{CAT}</s>",
    f"USER: What is shown here?ASSISTANT: {CAT}",
    f"**User:** Describe the picture.\n\n**Assistant:** {CAT}",
)
UNANSWERED = (
    "system\nYou are a helpful assistant.\nuser\nCaption this image.\nassistant\n",
    "User: Describe this image.\nAssistant:",
    "### Instruction:\nDescribe the image.\n\n### Response:\n",
    "User: Hello\nAssistant: Hello! How can I help you today?",
    "user\nCaption it.\nassistant\nI'm sorry, but I cannot see the image.",
    "A chat between a curious user and an artificial intelligence assistant. USER: <image> Caption it. ASSISTANT:",
)
SPEAKERS_IN_CAPTIONS = (
    "A model walks down a runway in a red dress.",
    'A chat window with the words "Human: hello" on a grey screen.',
    "A user at a desk, the system unit beside the screen.",
    "A robot assistant, a white plastic figure on wheels, in a hotel lobby.",
)


@pytest.mark.parametrize("answer", TRANSCRIPTS)
def test_of_a_transcript_what_the_assistant_says_is_the_caption(answer: str) -> None:
    assert caption_from(ModelResponse(answer, "stop")).text == CAT


@pytest.mark.parametrize("answer", UNANSWERED)
def test_a_transcript_without_an_answer_has_no_caption(answer: str) -> None:
    found = caption_from(ModelResponse(answer, "stop"))
    assert (found.text, bool(found.problem)) == ("", True)


@pytest.mark.parametrize("caption", SPEAKERS_IN_CAPTIONS)
def test_a_caption_may_name_a_user_or_a_model(caption: str) -> None:
    found = caption_from(ModelResponse(caption, "stop"))
    assert (found.text, found.removed) == (caption, ())


OWN = "You see a photo of my cat. Describe what it does, in one sentence"
ECHOES = (
    (INSTRUCTION, f"{INSTRUCTION}\n\n{CAT}"),
    (INSTRUCTION, f"{INSTRUCTION}: {CAT}"),
    (INSTRUCTION, f'"{INSTRUCTION}."\n\n{CAT}'),
    (INSTRUCTION, f"> {INSTRUCTION}\n\n{CAT}"),
    (INSTRUCTION, f"Q: {INSTRUCTION}\nA: {CAT}"),
    (INSTRUCTION, f"**Prompt:** {INSTRUCTION}\n**Caption:** {CAT}"),
    (INSTRUCTION, f"{stricter(INSTRUCTION)}\n\n{CAT}"),
    (INSTRUCTION, f"Write it in English. {CAT}"),
    (INSTRUCTION, f"{INSTRUCTION} -> {CAT}"),
    (INSTRUCTION, f'The task: "{INSTRUCTION}".\n\n{CAT}'),
    (OWN, f"{OWN}.\n{CAT}"),
    (OWN, f"Describe what it does, in one sentence: {CAT}"),
    (OWN, f"describe what it does, in one sentence\n\nAnswer: {CAT}"),
    ("Describe this image", f"Describe this image.\n{CAT}"),
)
NO_ECHOES = (
    (INSTRUCTION, INSTRUCTION, ""),
    (INSTRUCTION, f"Q: {INSTRUCTION}\nA:", ""),
    (INSTRUCTION, "Write it in English.", ""),
    (INSTRUCTION, stricter(INSTRUCTION).split("\n\n")[1], ""),
    (OWN, "Describe what it does, in one sentence.", ""),
    ("Caption in the style of: A ginger cat", CAT, CAT),
    ("Write one like this.\nA ginger cat sits on a sofa.", f"{CAT[:28]}. The light is soft.", None),
)


@pytest.mark.parametrize(("prompt", "answer"), ECHOES)
def test_a_caption_behind_the_repeated_prompt_is_found(prompt: str, answer: str) -> None:
    found = caption_from(ModelResponse(answer, "stop"), prompt)
    assert (found.text, found.removed[:1]) == (CAT, ("the repeated prompt",))


@pytest.mark.parametrize(("prompt", "answer", "text"), NO_ECHOES)
def test_only_the_prompt_itself_is_removed(prompt: str, answer: str, text: str | None) -> None:
    expected = answer if text is None else text
    assert caption_from(ModelResponse(answer, "stop"), prompt).text == expected
    assert clean_answer(CAT, (prompt,)).text == CAT
