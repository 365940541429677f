"""A caption behind "I can see", an apology, or what the model cannot say is found; what only looks so is not."""

import pytest

from flux_training.training.dataset.captions import ModelResponse, caption_from

SIGHTS = (
    ("I can see a ginger cat on a sofa.", "A ginger cat on a sofa."),
    ("I see two dogs on a beach. I can also see a red ball.", "Two dogs on a beach. A red ball."),
    ("We see a woman in a red coat crossing a street.", "A woman in a red coat crossing a street."),
    ("You can see a cat on a sofa by the window.", "A cat on a sofa by the window."),
    ("In this picture you can see a man with a guitar.", "A man with a guitar."),
    ("In the image, we can see a man with a guitar on a stage.", "A man with a guitar on a stage."),
    ("Here we have a ginger cat on a sofa.", "A ginger cat on a sofa."),
    ("Here you can see people walking through a market.", "People walking through a market."),
    ("We have here a barista behind a counter.", "A barista behind a counter."),
    ("In this photo we see a dog, and you can see a ball in the grass.", "A dog, and a ball in the grass."),
    ("What we see is a ginger cat on a sofa.", "A ginger cat on a sofa."),
    ("What I can see in this image is a cat on a sofa.", "A cat on a sofa."),
    ("I can see that there is a ginger cat on a sofa.", "There is a ginger cat on a sofa."),
    ("I can see that this is a photo of a man on a bridge.", "This is a photo of a man on a bridge."),
    ("I can see the image. It shows a cat on a sofa.", "It shows a cat on a sofa."),
    ("As you can see, a cat sits on a sofa.", "A cat sits on a sofa."),
    ("I notice a small bird on a branch, with red berries.", "A small bird on a branch, with red berries."),
    ('We see the words "SALE" on a red sign.', 'The words "SALE" on a red sign.'),
)
NO_SIGHTS = (
    "I can see the image you uploaded.",
    "I see no image here.",
    "I can see nothing in this image.",
    "I can see that you have not attached an image.",
    "I can see that the image is blurry and I can't describe it.",
    "I see an error message in your request.",
    "I see a request for a caption, but there is no image.",
    "I see what you mean.",
    "I see a lot of noise in this image.",
    "You can see more pictures on my website.",
    "You can see the original on Wikimedia Commons.",
    "You can see a preview of the file in the attachment.",
    "Here we have a problem with the attached file.",
    "I see. Please upload the picture.",
)


@pytest.mark.parametrize(("answer", "caption"), SIGHTS)
def test_what_the_model_sees_is_the_caption(answer: str, caption: str) -> None:
    found = caption_from(ModelResponse(answer, "stop"))
    assert (found.text, found.removed) == (caption, ("an introduction",))


@pytest.mark.parametrize("answer", NO_SIGHTS)
def test_what_the_model_sees_is_not_always_in_the_image(answer: str) -> None:
    assert caption_from(ModelResponse(answer, "stop")).text == ""


@pytest.mark.parametrize(
    "caption",
    [
        "In this image, there is a cat on a sofa.",
        "A cat on a sofa; a lamp can be seen behind it.",
        "A view you see from the tower: roofs, a river, two bridges.",
        "Here, a man plays the guitar on a stage.",
    ],
)
def test_a_description_that_names_the_image_stays(caption: str) -> None:
    found = caption_from(ModelResponse(caption, "stop"))
    assert (found.text, found.removed) == (caption, ())


INABILITIES = (
    (
        "I'm unable to identify the person, but the image shows a man in a grey coat on a bridge.",
        "The image shows a man in a grey coat on a bridge.",
    ),
    (
        "While I can't determine who this is, the photo shows a woman in a red dress at a piano.",
        "The photo shows a woman in a red dress at a piano.",
    ),
    (
        "Although I cannot confirm the breed, this is a small brown dog lying on a striped rug.",
        "This is a small brown dog lying on a striped rug.",
    ),
    (
        "I'm sorry, but I can't identify people in images. However, the image shows a man on a bridge.",
        "The image shows a man on a bridge.",
    ),
    (
        "I cannot identify the person, but I can describe it: a man in a grey coat on a bridge.",
        "A man in a grey coat on a bridge.",
    ),
    (
        "I can't tell who the person is, but I can see a man standing on a bridge.",
        "A man standing on a bridge.",
    ),
    (
        "As an AI, I can't identify real people, but I can describe the scene: a man mends a net on a quay.",
        "A man mends a net on a quay.",
    ),
    ("I don't know who this is. A man in a grey coat stands on a bridge.", "A man in a grey coat stands on a bridge."),
    (
        "I won't identify the person, but it's a man in a suit at a podium.",
        "It's a man in a suit at a podium.",
    ),
    ("Sorry for the confusion. The image shows a cat on a sofa.", "The image shows a cat on a sofa."),
    (
        "Apologies for the earlier error. A woman in a yellow raincoat stands on a pier.",
        "A woman in a yellow raincoat stands on a pier.",
    ),
)  # fmt: skip
NO_CAPTIONS = (
    "I'm sorry, but I can't help with that.",
    "I'm unable to determine what the image shows, but it could be a man on a bridge.",
    "I can't see the image, but it probably shows a man on a bridge.",
    "I cannot tell from the image, but here is a generic caption: A man on a bridge.",
    "I can't identify the person, but I can help with other questions about the image.",
    "I'm sorry, I can't identify who is in this picture. The picture is of a real person.",
    "Sorry, I cannot identify individuals.",
    "Sorry for the inconvenience. The image could not be loaded on the server.",
    "Sorry for the delay. The server is busy with other requests at the moment.",
    "Sorry for the confusion. I need an image to write a caption.",
    "I'm sorry for the confusion. I cannot see images in this chat.",
)


@pytest.mark.parametrize(("answer", "caption"), INABILITIES)
def test_what_follows_an_apology_or_what_the_model_does_not_know_is_the_caption(
    answer: str, caption: str
) -> None:
    assert caption_from(ModelResponse(answer, "stop")).text == caption


@pytest.mark.parametrize("answer", NO_CAPTIONS)
def test_a_refusal_and_a_guess_are_no_captions(answer: str) -> None:
    assert caption_from(ModelResponse(answer, "stop")).text == ""
