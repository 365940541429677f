"""What an answer is about, told from its words: an image, the caption itself, or a service and its state. Pure."""

# ruff: noqa: RUF001 - other scripts have letters that look like Latin ones

import re

from flux_training.training.dataset.answers.regex import compile_later

_I = re.IGNORECASE
# Limits in words. A longer text with such words also describes something, so it is not judged by them.
MAX_WORDS_WITHOUT_IMAGE = 9
MAX_WORDS_ABOUT_A_POOR_IMAGE = 40
MAX_WORDS_OF_AN_EXCLAMATION = 3
# The limit for scripts without spaces between words.
MAX_CHARACTERS = 40
# A text with at least this many words of another language is written in that language.
MIN_OTHER_WORDS = 2
MAX_WORDS_OF_A_JUDGEMENT = 12
MIN_DESCRIBING = 3

# Words of services and programs, of their states, and of the work of captioning. None of them alone says that a text is no caption.
_SERVICE = compile_later(
    r"\b(?:server|service|slot|provider|requests?|prompt|job|tasks?|api|quota|credits?|tier|tokens?|session|connection|endpoint|inference|account|queue|gpu|cuda"
    r"|backend|upstream|limits?|context|deployment|gateway|subscription|billing|policy|cache|worker|instance|payload|memory|allocat\w+|plan|feature"
    r"|uploads?|downloads?|attachments?|attached|inputs?|outputs?|responses?|query|parameters?|schema|json|authenti\w+|authoriz\w+|permissions?|url|files?|(?<!^the )model|model(?= \W)"
    r"|caption(?:s|ing)|describing|description|system|safety|guidelines?|timeout|database|runtime|config(?:uration)?|version|tokenizer|batch"
    r"|errors?|failed|failure|exhausted|exceeded|expired|disconnected|queued|rejected|missing|denied|declined|invalid|unavailable|overloaded|busy|timed out|not found|too large"
    r"|retry|retrying|offline|reached|unsupported|supported|disabled|enabled|paused|suspended|violation|flagged|blocked|cancell?ed|aborted|requires?|required"
    r"|refused|starting|pending|permitted|prohibited|allowed|complete|completed|successful(?:ly)?|saved|processed|unable|nothing|upgrade|data|truncated|corrupt(?:ed)?|crashed|warning|loaded|warming|detected|aborting|disallowed|identification"
    r"|images?|pictures?|photos?|visual|information|info|details?|content|confidence|range|index|process|status|exit|again|received|generat\w+|assistant|privacy|reasons?|properly|found|trigger|dataset|instructions?|sentences?|usage|unexpected|words?)\b",
    _I,
)
# Words that explain, judge, ask or deny, which captions seldom need.
_DISCUSSING = compile_later(
    r"\b(?:will|would|should|shall|must|might|could|cannot|please|not|no|none|nothing|never|\w+n't|(?:has|have) been|was|were|did|had|because|therefore|due to|if|so|except"
    r"|try|let|what|why|this|too|okay|you|your|yours|which|enough|hope|sorry|maybe|perhaps|probably|originated|invented|founded|became|began|here|need(?:s|ed)?)\b",
    _I,
)
# Words that say where something is, how many there are, what is going on, or how it looks. Tags have commas.
_DESCRIBING = compile_later(
    r"\b(?:an?|one|two|three|four|five|six|several|some|on|of|after|before|beside|under|behind|near|against|over|above|along|between|across|around|front|next|in(?! \d)|at|with|through|into|from"
    r"|(?!(?:no|some|any|every)thing\b)\w{2,}ing|red|orange|yellow|green|blue|purple|pink|brown|black|white|gr[ae]y|golden|silver|beige|teal|dark|bright|colou?rful|light|lit|shadows?|glows?"
    r"|background|foreground|close-up|shot|portrait|stands?|sits|hair|face|hands?|wooden|metal|glass|sky|man|woman|person|people)\b|,",
    _I,
)
# Names from a program: `n_ctx`, `StringValue`, `GGML_ASSERT`, `/v1/models`.
_IDENTIFIER = compile_later(r"(?<![\w/])(?:[A-Za-z]+_\w+|[A-Z]?[a-z]+[A-Z][a-z]{2,}\w*|/\w[\w./-]+)")
# Words for the answer, the request and the model.
_TASK = compile_later(
    r"\bcaption(?:s|ed|ing|er)?\b(?! (?:at|on|below|above|under|across|over)\b)|\btrigger[- ]?(?:word|token|phrase)s?\b|\bword[- ](?:count|limit)\b"
    r"|\b(?:be|been) written\b|^\W*placeholder\b|\bis a placeholder\b|\bplaceholder (?:text|captions?|descriptions?)\b|\bdescriptions? (?:of|for) (?:the|this|that|your|any) (?:image|picture|photo)|\b(?:\d{1,4}|hundred)[- ](?:words?|tokens?|characters?)\b"
    r"|\b(?:this|my|your|no|above|provided|requested|generated) (?:image |short |brief )?(?:description|prompt|response|reply|request|conversation|task)\b"
    r"|\b(?:the|a) (?:above |short |brief )*(?:description|sentence|text) (?:is|was|should|must|could|will|\w+s)\b"
    r"|\b(?:as|per|following|follow\w*|according to|in line with|meets?|satisf\w+|based on) (?:you |were |was )?(?:requested|instructed|asked|specified|(?:the|your|these|all|my) (?:\w+ )?(?:prompt|requests?|instructions?|requirements?|guidelines?|criteria|constraints?))\b"
    r"|\b(?:descriptions?|text) (?:was |were )?(?:generated|produced) (?:by|with|using)\b|^\W*(?:generated|described|written|created|produced|annotated) (?:by|with|using|via) (?=\S*(?:\d|vl|gpt|llava|ai\b))\S+(?: \S+){0,3}$"
    r"|\b(?:describ\w+|depict\w*|caption\w*) (?:the|this|your) (?:image|picture|photo)\b",
    _I,
)
# "DSLR photo." or "Style: photo." after a sentence belongs to the caption.
_MEDIUM = compile_later(
    r"^(?:(?:style|medium): )?(?:[\w-]+ ){0,4}(?:photo|photograph|picture|image|shot)[.]?$", _I
)
# A count of words, such as `(21/100)`.
_COUNT = compile_later(r"[\[(][\d/ ]+[\])]")
_NEGATION = compile_later(
    r"\b(?:not|no|never|cannot|\w+n't|unable|without|fail\w*|withheld|omitted|blocked|denied|refus\w+|declin\w+|impossible)\b",
    _I,
)
# Statements that an image is too poor to be described.
_NOT_TOLD = compile_later(
    r"(?=.*\b(?:not|cannot|\w+n't|unable|too|insufficient(?:ly)?|impossible|difficult|hard|lacks?|never)\b)"
    r".*\b(?:describ\w+|caption\w*|determin\w+|discern\w*|identif\w+|recogni[sz]\w+|interpret\w*|analy[sz]\w+|ma[dk]e out|descriptions?)\b",
    _I,
)
_PICTURE = compile_later(
    r"\b(?:images?|pictures?|photos?|photograph|content|contents|details|resolution|quality|thumbnail|pixels|file|input|visual\w*)\b",
    _I,
)
# Words that say where something is, or at least two commas, as in tags.
_SCENE = compile_later(
    r"\b(?:an?|on|in(?! \d)|at|with|beside|under|behind|near|against|through|over|above|along|between|of)\b|,.*,",
    _I,
)
# Captions often begin with an article or a number: "A dog", "Three cups".
_SHOWS_A_THING = compile_later(
    r"^(?:an?|one|two|three|four|five|six|seven|eight|nine|ten|some|several|ein(?:e|en)?|une?|una|uno|um|uma|een|et|ett)\s",
    _I,
)
# What a service writes about also has an article: "An image was expected".
_NO_THING = compile_later(
    r"^(?:an?|one|no) (?:\w+ )?(?:image|picture|photo|file|attachment|error|server|request|caption|description|prompt|model|response)\b",
    _I,
)
_OTHER_LANGUAGE = compile_later(
    r"\b(?:el|la|los|las|del|de|y|que|en|una|il|di|che|le|les|des|et|und|der|das|ein|eine|het|een|van|os|um|uma|da|och|att|med)\b",
    _I,
)
# Words that judge a picture, words for pictures and their qualities, and words that join these. A text of such words alone describes
# nothing.
_EMPTY = compile_later(
    r"visually|striking|use|shadows?|outdoors?|indoors?|amazing|awesome|beautiful(?:ly)?|brilliant|clear|compelling|composed|cool|detailed|evocative|excellent|fantastic|fine|fun|generic|good|gorgeous|great|hard|high|impressive|incredible|interesting"
    r"|lovely|low|nice(?:ly)?|ok(?:ay)?|perfect|poor|powerful|pretty|professional|random|simple|strong|stunning|superb|unclear|unknown|well|wonderful|wow|bad|best|better|short|brief|done|example"
    r"|images?|pictures?|photos?|photographs?|photography|shots?|captures?|captions?|descriptions?|visuals?|stock|compositions?|quality|resolution|focus|lighting|light|colou?rs?|details?|framing|work|scene|subjects?"
    r"|an?|the|this|that|it|its|is|are|was|looks?|seems?|with|and|but|of|for|to|in|so|very|really|quite|too|some|something|someone|there|here|me|i|like|love|all|or|either|tell|see|make|makes|feel|feels|calm|loaded|generated|successful(?:ly)?",
    _I,
)
# General facts and stories, such as "The capital of France is Paris".
_FACT = compile_later(
    r"^(?!(?:This|That|It|He|She|Here|There|One|Each|Why|Who|Where|When|How|Everyone|Everything|Nobody|Nothing|What|Another)\b)(?:[A-Z][\w-]+ (?:[A-Z][\w-]+ )?is (?:an?|the|one of)\b(?! (?:few|little|lot)\b)|The \w+ (?:of|in) (?:[A-Z]\w+|the \w+) (?:is|was) )"
    r"|^(?:In \d{4}|Once upon a time|There (?:was|were) (?:once )?(?:an?|two|three|many)|According to)\b"
    r"|^(?:This|The) (?:image|photo\w*|picture|scene) (?:evokes|conveys|captures|creates|exudes|tells|radiates) (?:an?|the) (?:\w+ )?(?:sense|feeling|mood|story|essence|moment)\b[^,:]*$"
    r"|^An? (?:\w+ )?(?:example of|moment (?:captured|frozen))\b"
)
# Words for positions and actions in a picture, which statements of facts do not have.
_BESIDE = compile_later(
    r"\b(?:behind|beside|under|against|near|beneath|above|next to|wearing|standing|sitting|lying|holding|looking|walking|smiling)\b",
    _I,
)
# Advice, and requests of a web page or service to its readers.
_ADVICE = compile_later(
    r"^(?:imagine|consider|remember (?:that|to)|make sure|try (?:to|not|an?|the|using|moving|again)|avoid|subscribe|follow (?:me|us|these)|download (?:our|the|now)|click (?:here|on|below)|buy now|order now|(?:learn|read|see|find out) more|sign up|visit (?:us|our|https?)|choose (?:an?|one|from|your)"
    r"|to (?:\w+ )?(?:improve|enhance|analy[sz]e|describe|caption|understand|create|write) (?:an?|the|this|your)|(?:for|if) best results)\b",
    _I,
)
_ABSENT = compile_later(
    r"^(?:no\b|there (?:is|are) (?:no|neither)\b|the (?:image|photo|picture) (?:has|contains|includes|shows) no\b|text in the image: none)[^.]*\b(?:text|writing|watermarks?|signatures?|logos?|captions?|borders?|none)\b[^.]*\.?$",
    _I,
)
# Things that text is written on, and verbs for writing or reading it.
_WRITING = compile_later(
    r"\b(?:graffiti|signs?|posters?|murals?|mugs?|t-?shirts?|shirts?|books?|covers?|magazine|newspaper|walls?|paintings?|letters|billboards?|screens?|labels?"
    r"|vinyl|plush|stickers?|banners?|neon|cards?|maps?|box|headline|blackboard|chalkboard|whiteboard|paper|notes?(?! that)|menu|tombstone|memes?|comics?|cartoons?|font|subtitles?|tattoo|doormat"
    r"|carved|written|painted|printed|engraved|handwritten|reads?|reading|says|saying|said|asks|shouts|whispers|(?:the|with|of) words?|words? (?:on|in|above|below|is)|lettering|slogan|caption contest)\b",
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
    *((compile_later(rf"\b(?:{no})\b", _I), compile_later(rf"\b(?:{of})\b", _I)) for no, of in _BLIND),
    *((compile_later(no), compile_later(of)) for no, of in _BLIND_WITHOUT_SPACES),
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


def discusses_rather_than_describes(text: str) -> bool:
    """Whether a text has more words of discussions, services and programs than of descriptions, such as "Job queued."."""
    discussing, describing = count_words(text)
    is_discussion = discussing > describing or discussing == describing == 1
    is_scene = names_writing(text) or (begins_with_a_thing(text) and not _NO_THING.match(text))
    return is_discussion and _is_english(text) and not is_scene


def _is_english(text: str) -> bool:
    """Whether a text may be English, the only language whose words are counted."""
    has_other_letters = any(letter.isalpha() and not letter.isascii() for letter in text)
    return not has_other_letters and len(_OTHER_LANGUAGE.findall(text)) < MIN_OTHER_WORDS


def only_judges(text: str) -> bool:
    """Whether a text judges a picture, or says that there is one, but not what it shows: "Stunning shot, love the colors!"."""
    words = re.findall(r"\w+", text)
    return len(words) <= MAX_WORDS_OF_A_JUDGEMENT and all(map(_EMPTY.fullmatch, words))


def states_a_fact(text: str) -> bool:
    """Whether a text says what something is in general, tells a story, or gives advice."""
    is_fact = _FACT.match(text) and not _BESIDE.search(text)
    return bool(is_fact) or _ADVICE.match(text) is not None


def count_words(text: str) -> tuple[int, int]:
    """How many words of a text discuss something, or belong to services and programs, and how many describe."""
    discussing = sum(len(words.findall(text)) for words in (_DISCUSSING, _SERVICE, _IDENTIFIER))
    return discussing, len(_DESCRIBING.findall(_SERVICE.sub(" ", text)))


def describes_well(text: str) -> bool:
    """Whether a text has several words that describe, and more than twice as many of them as others."""
    discussing, describing = count_words(text)
    return describing >= MIN_DESCRIBING and describing > 2 * discussing


def is_remark(sentence: str) -> bool:
    """Whether a last sentence, line or bracket is no part of a description, such as "Is that okay?" or "[made by a model]"."""
    if names_writing(_TASK.sub(" ", sentence)) or _MEDIUM.search(sentence):
        return False
    is_exclamation = sentence.endswith("!") and len(sentence.split()) <= MAX_WORDS_OF_AN_EXCLAMATION
    return (
        sentence.endswith("?")
        or is_exclamation
        or _COUNT.fullmatch(sentence) is not None
        or is_about_the_task(sentence)
        or discusses_rather_than_describes(sentence)
    )


def is_about_the_task(text: str) -> bool:
    """Whether a text is about the caption, or what was asked for, rather than about the image."""
    return _TASK.search(text) is not None and not names_writing(_TASK.sub(" ", text))


def says_what_is_absent(sentence: str) -> bool:
    """Whether a last sentence says that a picture has no text or watermark: nobody needs it in a caption."""
    return _ABSENT.match(sentence) is not None


def negates(text: str) -> bool:
    """Whether a text says that something is not so, or was not done."""
    return _NEGATION.search(text) is not None


def finds_the_image_too_poor(text: str) -> bool:
    """Whether a text says that an image, or what is in it, cannot be told."""
    return (
        len(text.split()) <= MAX_WORDS_ABOUT_A_POOR_IMAGE
        and not begins_with_a_thing(text)
        and any(_PICTURE.search(part) and _NOT_TOLD.search(part) for part in re.split(r"(?<=[.!?]) ", text))
    )


def says_that_there_is_no_image(text: str) -> bool:
    """Whether a short text negates an image, or its description, in one of many languages."""
    is_short = len(text.split()) <= MAX_WORDS_WITHOUT_IMAGE and (" " in text or len(text) <= MAX_CHARACTERS)
    is_scene = begins_with_a_thing(text) or names_writing(text)
    clauses = re.split(r"[,;:，、]", text)
    return (
        is_short
        and not is_scene
        and any(no.search(clause) and of.search(clause) for clause in clauses for no, of in _PAIRS)
    )
