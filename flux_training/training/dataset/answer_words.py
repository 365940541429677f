"""What a short answer is about, told from its words: a service and its state, or an image and a negation. Pure."""

# ruff: noqa: RUF001 - other scripts have letters that look like Latin ones

import re

_I = re.IGNORECASE
# Longer texts with these words describe something.
MAX_WORDS = 12
MAX_WORDS_WITHOUT_IMAGE = 9
# For scripts that put no spaces between words.
MAX_CHARACTERS = 40

# Words of services and programs, of their states, and of the work of captioning. None of them alone says that a text is no caption.
_SERVICE = re.compile(
    r"\b(?:server|service|provider|requests?|prompt|job|tasks?|api|quota|credits?|tier|tokens?|session|connection|endpoint|inference|account|queue|gpu|cuda"
    r"|backend|upstream|limits?|context|deployment|gateway|subscription|billing|policy|cache|worker|instance|payload|memory|allocat\w+|plan|feature"
    r"|uploads?|downloads?|attachments?|attached|inputs?|outputs?|responses?|query|parameters?|schema|json|authenti\w+|authoriz\w+|permissions?|url|files?|model"
    r"|caption(?:s|ing)|describing|description|system|safety|guidelines?|timeout|database|runtime|config(?:uration)?|version|tokenizer|batch"
    r"|errors?|failed|failure|exhausted|exceeded|expired|queued|rejected|denied|declined|invalid|unavailable|overloaded|busy|timed out|not found|too large"
    r"|retry|retrying|offline|reached|unsupported|supported|disabled|enabled|paused|suspended|violation|flagged|blocked|cancell?ed|aborted|requires?|required"
    r"|refused|starting|pending|permitted|prohibited|allowed|complete|completed|successful(?:ly)?|saved|processed|unable|nothing|upgrade|data|truncated|corrupt(?:ed)?|crashed|warning|loaded|warming|detected|aborting|disallowed|identification)\b",
    _I,
)
MIN_SERVICE_WORDS = 2
MIN_SERVICE_WORDS_IN_A_SCENE = 3
# Words that say where something is, or at least two commas, as in tags.
_SCENE = re.compile(
    r"\b(?:an?|on|in(?! \d)|at|with|beside|under|behind|near|against|through|over|above|along|between|of)\b|,.*,",
    _I,
)
# Captions often begin with an article or a number: "A dog", "Three cups".
_SHOWS_A_THING = re.compile(
    r"^(?:an?|one|two|three|some|several|ein(?:e|en)?|une?|una|uno|um|uma|een|et|ett)\s", _I
)
# Things that text is written on, and verbs for writing or reading it.
_WRITING = re.compile(
    r"\b(?:graffiti|signs?|posters?|murals?|mugs?|t-?shirts?|shirts?|books?|covers?|magazine|newspaper|walls?|paintings?|letters|billboards?|screens?|labels?"
    r"|vinyl|plush|stickers?|banners?|neon|cards?|maps?|box|headline|blackboard|chalkboard|whiteboard|paper|notes?|menu|stone|tombstone|tattoo|doormat"
    r"|carved|written|painted|printed|engraved|handwritten|reads?|reading|says|saying|said|asks|shouts|whispers|words?|lettering|slogan|caption contest)\b",
    _I,
)
# In each line the words of one language: its negations, and the words for an image, its arrival or its description.
_BLIND = (
    (
        r"not|no|never|cannot|\w+n't|failed|unable",
        r"(?:image|picture|photo|file|attachment|pixels?)\b.*\b(?:open|opened|arrived?|load|loaded|received|attached|uploaded|processed|decoded|display(?:ed)?|rendered|reached|provided|come|came)",
    ),
    (r"nicht|kein\w*", r"bild\w*|foto\w*|grafik|beschreiben|erkennen"),
    (r"pas|aucune?", r"image|photo|décrire|pièce jointe"),
    (r"no|ninguna?", r"imagen|foto|describir|archivo"),
    (r"non|nessuna?", r"immagine|foto|descrivere"),
    (r"não|nenhuma?", r"imagem|foto|descrever"),
    (r"niet|geen", r"afbeelding|foto|beeld|beschrijven"),
    (r"nie|brak", r"obraz\w*|zdjęci\w*|opisać"),
    (r"inte|ikke|ingen|inget|intet", r"bild\w*|bilde\w*|billede\w*|foto\w*|beskriva|beskrive"),
    (r"ei|en|eikä", r"kuva\w*|kuvailla"),
    (r"není|ne\w+|žádn\w+", r"obráz\w+|fotografi\w+|popsat"),
    (r"nem|nincs", r"kép\w*|leírni"),
    (r"nu|nicio", r"imagin\w+|fotografi\w+|descrie"),
    (r"yok|değil|\w+(?:madı|medi|amadı|emedi|amıyorum|emiyorum)", r"görsel\w*|resim|resmi|fotoğraf\w*"),
    (r"tidak|tiada|bukan", r"gambar\w*|foto\w*"),
    (r"không", r"(?:hình )?ảnh|mô tả"),
    (r"не|нет|немає", r"изображени\w+|картинк\w+|фото\w*|зображенн\w+|описать|описати"),
    (r"δεν", r"εικόνα\w*|φωτογραφί\w+"),
)
_BLIND_WITHOUT_SPACES = (
    (r"没|沒|无|無|未|不", r"图|圖|照片"),
    (r"ない|ません", r"画像|写真"),
    (r"없|않|못", r"이미지|사진"),
    (r"لا|لم|ليس", r"صورة|الصورة"),
    (r"नहीं|कोई", r"छवि|चित्र|तस्वीर|फ़ोटो"),
    (r"ไม่", r"ภาพ|รูป"),
    (r"לא|אין", r"תמונה"),
)
_PAIRS = [
    *((re.compile(rf"\b(?:{no})\b", _I), re.compile(rf"\b(?:{of})\b", _I)) for no, of in _BLIND),
    *((re.compile(no), re.compile(of)) for no, of in _BLIND_WITHOUT_SPACES),
]


def names_writing(text: str) -> bool:
    """Whether a text says that its words stand somewhere in the picture, such as on a sign."""
    return _WRITING.search(text) is not None


def begins_with_a_thing(text: str) -> bool:
    """Whether a text begins as descriptions do, with an indefinite article or a number."""
    return _SHOWS_A_THING.match(text) is not None


def describes_a_scene(text: str) -> bool:
    """Whether a text has words that nearly every description has: an article, a place, or commas between its parts."""
    return begins_with_a_thing(text) or _SCENE.search(text) is not None or not text.isascii()


def is_message_of_a_service(text: str) -> bool:
    """Whether a short text is about a service or its work, such as "Job queued.", rather than a scene."""
    needed = MIN_SERVICE_WORDS_IN_A_SCENE if _SCENE.search(text) else MIN_SERVICE_WORDS
    return _is_short_statement(text) and len(_SERVICE.findall(text)) >= needed


def says_that_there_is_no_image(text: str) -> bool:
    """Whether a short text negates an image, or its description, in one of many languages."""
    clauses = re.split(r"[,;:，、]", text)
    return (
        len(text.split()) <= MAX_WORDS_WITHOUT_IMAGE
        and _is_short_statement(text)
        and any(no.search(clause) and of.search(clause) for clause in clauses for no, of in _PAIRS)
    )


def _is_short_statement(text: str) -> bool:
    is_short = (
        len(text.split()) <= MAX_WORDS if text.isascii() or " " in text else len(text) <= MAX_CHARACTERS
    )
    return is_short and not begins_with_a_thing(text) and not names_writing(text)
