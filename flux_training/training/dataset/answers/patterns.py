"""The patterns that `model_answers` looks for. Apostrophes are `'` in the texts that they are applied to."""

import re

from flux_training.training.dataset.answers import languages as languages
from flux_training.training.dataset.answers.regex import compile_later

# ruff: noqa: RUF001 - some models' tokens have full-width characters
_I = re.IGNORECASE
_M = re.MULTILINE

_THOUGHT = r"(?:seed:)?(?:think|thinking|thought|thoughts|reasoning|reflection|analysis|scratchpad)"
REASONING_OPEN = compile_later(
    rf"<{_THOUGHT}>|\[{_THOUGHT}\]|◁{_THOUGHT}▷|<\|(?:begin_of_)?{_THOUGHT}\|>|<unused94>|<\|channel\|>|<\|START_THINKING\|>|\AThinking\.\.\.\s*\n|<details>",
    _I,
)
REASONING_CLOSE = compile_later(
    rf"</{_THOUGHT}>|\[/{_THOUGHT}\]|◁/{_THOUGHT}▷|<\|(?:/|end_of_){_THOUGHT}\|>|<unused95>|<\|END_THINKING\|>|\.\.\.\s?done thinking\.?|</details>",
    _I,
    needs=("</", "[/", "◁", "<|", "<unused95>", "done thinking"),
)
FINAL_CHANNEL = compile_later(
    r"<\|channel\|>final\s*<\|message\|>|\Aanalysis[\s\S]*?assistantfinal|\A(?:#{1,4} *|\*\*)(?:thinking|analysis|thoughts?|reasoning)\b[^\n]*\n[\s\S]*?\n(?:#{1,4} *|\*\*)(?:final )?(?:answer|caption|response)(?:\*\*)?:?(?:\*\*)? *\n|\Ahere(?:'s| is) my thought process:[\s\S]*?here(?:'s| is) my response:",
    _I,
)

# What follows one of these is another turn of the conversation.
END_TOKEN = compile_later(
    r"<\|(?:im_end|endoftext|eot_id|end_of_text|end|eom_id|end_of_turn|return|endofanswer)\|>|</s>|<eos>|<end_of_turn>|<end_of_utterance>|(?<=</caption>)\s*<tags>"
    r"|<｜end▁of▁sentence｜>|<\|im_start\|>\s*user|\n\s*(?:#{2,} *)?(?:user|human|instruction|q|question):|(?-i:\sUSER:|\sHUMAN:)|(?<=[.!?])\s+#{2,}\s*\Z|(?<=[.!?])\s*(?:\[INST\]|<\|user\|>)|\[end of text\]|(?<=[.!?])assistant\b",
    _I,
)
# The tokens with which a model ends its answer. Some servers go on after one, up to the limit.
STOP_TOKENS = compile_later(
    r"(?:\s*(?:<\|(?:im_end|endoftext|eot_id|end_of_text|end|eom_id|end_of_turn|return|endofanswer)\|>|</s>|<eos>|<end_of_turn>|<end_of_utterance>|<｜end▁of▁sentence｜>|\[end of text\]))+",
    _I,
    needs=("<", "[end of text]"),
)
SPECIAL_TOKEN = compile_later(
    r"<\|start_of_role\|>\w*<\|end_of_role\|>|<\|[^|<>\n]{1,40}\|>|<｜[^｜<>\n]{1,40}｜>|</?s>|<unused\d+>|<0x[\dA-F]{2}>|<loc_\d+>|\[/?INST\]|<</?SYS>>|\[/?(?:OUTPUT|ANSWER|CAPTION|RESPONSE|RESULT|END|BOS|EOS|PAD|STOP|DONE|ASSISTANT)\]|\[(?:image|photo|picture|frame) ?#?\d{1,5}\]"
    r"|</?(?:bos|eos|pad|unk|image|img|start_of_turn|end_of_turn|start_of_image|end_of_image|grounding|phrase|ref|answer"
    r"|caption|detailed_caption|more_detailed_caption|response|output|final|result|end|assistant|user|p|br|b|i|ul|ol|li|em|strong|span|div)(?:\s[^<>]{0,200})?/?>|\[/?[biu]\]",
    _I,
    needs=("<", "["),
)
SPECIAL_TOKENS = compile_later(rf"(?:{SPECIAL_TOKEN.pattern})+", _I, needs=("<", "["))
# Tokens that may stand within a word.
WITHIN_WORDS = compile_later(r"(?:</?(?:b|i|u|em|strong|span)(?:\s[^<>]*)?>|\[/?[biu]\]|<0x[\dA-F]{2}>)+", _I)
ELEMENT = compile_later(r"<([a-z][\w-]*)(?:\s[^<>]*)?>(.*?)</\1>", _I | re.DOTALL)
# Names of XML elements: those that contain the caption, those that may, and others.
CAPTION_ELEMENT = compile_later(r"\w*(?:caption|description)\w*", _I)
TEXT_ELEMENT = compile_later(r"\w*(?:alt|summary|text|answer|response|output|result|final|prompt)\w*", _I)
OTHER_ELEMENT = compile_later(r"s|u|center|h\d|body|html|box|object|quad|tool_call|function\w*", _I)
LINE_BREAK = compile_later(r"<br\s*/?>", _I)
# Positions of objects in the image, which grounding models add.
REGIONS = compile_later(
    r"<\|ref\|>.{0,400}?<\|/ref\|>|<(box|object|quad)>.{0,400}?</\1>|<\|(box|quad|point)_start\|>.{0,400}?<\|\2_end\|>|\[\[?\d{1,4}(?:, ?\d{1,4}){3}\]?\]",
    _I | re.DOTALL,
    needs=("<", "["),
)
PLACES = compile_later(r"<loc_\d+>|<\|?box|<\|?point|<poly>|\[\[?\d{1,4}(?:, ?\d{1,4}){3}\]", _I)
BOXED = compile_later(r"\$*\\(?:boxed|text|caption|textbf)\{(?:\\text\{)?([^{}]*)\}?\}\$*")
ENVIRONMENT = compile_later(r"\\(?:begin|end)\{\w{1,20}\}")
# An escaped line break, as in JSON. After a colon or another backslash, `\n` is part of a Windows path.
WRITTEN_BREAK = compile_later(r"(?<![:\\])(?:\\r)?\\n")
# The character that the sentencepiece tokenizer uses for a space.
STORED_SPACE = compile_later(r"(?:^|(?<=\w))▁")
# The name of a speaker in a chat transcript, first with nothing after it.
LAST_TURN = compile_later(r"\s(?:ASSISTANT|### ?(?:Assistant|Response)):\s*\Z")
TURN = compile_later(r"(?:^|\s)(?:ASSISTANT|### ?(?:Assistant|Response|Answer)):\s*")
ROLE = compile_later(
    r"^\s*(?:assistant|model|chatbot|ai|bot|(?:gpt|claude|gemini|gemma|llava|qwen|mistral|pixtral|internvl)[-.\w]*)\s*(?::|\n)\s*",
    _I,
)
FENCE = compile_later(
    r"(?:```|~~~|\"\"\"|''\')(?:[a-z]*\n)?(.{0,10000}?)(?:```|~~~|\"\"\"|''\')", _I | re.DOTALL
)
# A fenced code block with plain text in place of JSON or XML. A remark may follow the block.
TEXT_FENCE = compile_later(r"\A```(?:markdown|md|text|txt)\n", _I)
OPEN_FENCE = compile_later(r"\A(?:```)?[a-z]*\n(?=\s*[{\[])", _I)
# The caption in JSON that cannot be parsed.
LOOSE_CAPTION = compile_later(r"[{,]\s*[\"']?(?:\w+_)?caption[\"']?\s*:\s*\"((?:[^\"\\]|\\.)+)\"", _I)
# JSON that was cut behind the caption. Other keys may precede it.
WHOLE_CAPTION = compile_later(
    r"\{(?:\s*\"[^\"]*\"\s*:\s*(?:\"(?:[^\"\\]|\\.)*\"|[-\w.]+|\[[^\[\]]*\])\s*,)*?\s*\"caption\"\s*:\s*\"(?:[^\"\\]|\\.)+\"\s*(?:,|\Z)"
)
BEFORE_JSON = compile_later(r"\A[^{\[]{0,200}:\s*(?=\{)")

_IMAGE = r"(?:image|picture|photo|photograph|attachment|file|visual content|screenshot|link|url)s?\b"
_NAME = r"(?:captions?|descriptions?|alt(?:[- ]?text)?)"
_OTHER_LANGUAGES = rf"(?:bild)?(?:unterschrift|beschreibung)|légende|descripción|leyenda|didascalia|legenda|(?:图片|图像)?(?:描述|说明|标题)|キャプション|画像の説明|{languages.LABELS}"
_LABEL = (
    r"(?:(?:image|photo|picture|frame|fig(?:ure|\.)?) #?\d{1,5}(?=\s*[:：—–])|(?:(?:my|final|short|brief|image|photo|picture|suggested|detailed|generated|english|revised)\s+){0,3}"
    rf"(?:{_NAME}|answer|output|response|result|summary|prompt|final|tl;?dr|{_OTHER_LANGUAGES})(?:\s*\([^)\n]{{1,20}}\)| (?:for|of) (?:the |this )?{_IMAGE} ?#?\d{{0,5}})?)"
)
# With a colon, in brackets, or as a heading; YAML has a sign for text on the next lines.
ANSWER_LABEL = compile_later(
    rf"^(?:[^\w\n\[({{<]*{_LABEL}(?:[\s*_\"]*(?:[:：=→]|->)|\s+[—–-]\s)[\s*_]*(?:[>|][+-]?\s*(?:\n\s*|$))?|[\[(【]{_LABEL}[\])】]\s*[:：]?\s*|#{{1,6}}\s+{_LABEL}\W*$)",
    _I,
    needs=(":", "：", "=", "→", "->", "—", "–", "-", "]", ")", "】", "#"),
)
AFTER_LABEL = ":： "
LABEL_LINE = compile_later(r"^[\s*_#>\"-]*[A-Za-z][A-Za-z ]{1,24}[\s*_\"]*:|^#{1,6}\s+\w")
_ADJECTIVES = (
    r"(?:(?:a|an|the|my|your|one|short|brief|concise|detailed|possible|suggested|simple|descriptive|revised|accurate"
    r"|image|photo|100-word|\w+-word)\s+){0,6}"
)
FIRST_SYMBOLS = compile_later(r"\A[\u2190-\u2bff\ufe0f\U0001f300-\U0001faff]+\s*")
# A title: a short first paragraph without punctuation.
TITLE = compile_later(r"\A(?:[^\s.!?,:;]+[ \t]+){0,7}[^\s.!?,:;]+\n\s*\n(?=(?:\S+\s+){8})")
# What some models add to the label of an alternative: `Option 1 (short):`.
_KIND = r"(?:\s*[\[(][^()\[\]\n]{1,60}[\])])?"
_ALTERNATIVE = r"(?:option|caption|alternative|version|variant|variation|description|suggestion|idea|take)"
INTRODUCTIONS = (
    # A first line that ends with a colon, in any language.
    compile_later(
        r"(?![^\n]*\b(?:reads?|says?|saying|reading|written|text|words?|steht|dit|dice)\s*[:：])[^\n:：]{1,120}[:：][*_ ]*\n+(?=\s*[^\s\d*•-])"
    ),
    compile_later(rf"\*\*[^*\n]{{0,20}}{_NAME}[^*\n]{{0,20}}\*\*\s*\n+", _I),
    compile_later(
        r"\W*(?:title\s*:[^\n]{1,120}\n|(?:subject|titel|titre|título|titolo)\s*:[^\n]{1,120}\n\s*\n)", _I
    ),
    compile_later(rf"[^\w|]*{_LABEL}[^\w|]*\n+", _I, needs=("\n",)),
    # A sentence of the model, followed by a label on the same line.
    compile_later(
        rf"(?:I|We|This)\b[^\n.!:]{{1,80}}[.!]\s+(?i:(?:here(?:'s| is) )?(?:my |the |a )?{_LABEL})\s*:\s*",
        needs=(":",),
    ),
    compile_later(
        rf"(?:the |a |one )?(?:\w+ )?(?:{_NAME}|answer)[^.:\n]{{0,40}} (?:is|could be|would be|might be)\s*:?\s*(?=[\"“'])",
        _I,
    ),
    compile_later(
        r"i(?:'d| would| will|'ll)? (?:caption|describe) (?:this|the|it)[^.:\n]{0,40}(?: as| like this)?\s*:\s*",
        _I,
    ),
    compile_later(r"here (?:you go|it is|goes|we go)(?:\s*[^\w\s,;]+\s*|\s*\n\s*)", _I),
    compile_later(
        r"here(?:'s| is)\b[^.:\n]{0,60}:\s*(?=\S)|[^\n.:]{0,80}\b(?:as follows|the following)\s*:\s*", _I
    ),
    compile_later(r"as (?:requested|instructed|asked)\s*[,:]\s*", _I),
    FIRST_SYMBOLS,
    # The label of the only alternative.
    compile_later(rf"\W*{_ALTERNATIVE} #?(?:1|one|a){_KIND}[*_]*\s*:[\s*_]*(?![\s\S]*\b[2b]\W*:)", _I),
    # `Caption 1:` if there is no `2:`.
    compile_later(rf"{_NAME} #?1\s*:\s*(?![\s\S]*\b2\s*:)", _I),
    TITLE,
    # A Markdown heading, or an action of the model such as `*looks closely*`.
    compile_later(
        r"\A#{1,6} [^\n.]{1,80}\n+(?=\S)|\A\*\*[^*\n.]{1,80}\*\*[ \t]*\n+(?=\S)|\A\*[a-z][^*\n]{1,60}\*\s+(?=[A-Z])"
    ),
    # A clause about the answer, followed by the caption.
    compile_later(
        rf"(?i:(?=[a-z*])(?!\W*\w+ (?:\d|one|a)\W*:)(?![^\n:]*\b(?:reads?|says?|saying|reading|written|errors?|if|assuming|imagin\w+|suppos\w+|examples?|hypothetical\w*)\b)(?=[^\n:.!?]*\b(?:here|below|{_NAME}|words?|instructions?|summary|what (?:i|can be|is)|would be|can be|follow(?:s|ing))\b)[^\n:.!?]{{1,120}}:\s+)(?=[A-Z\[\"“])"
    ),
    # An exclamation of one or two words, followed by a capital letter, with which the caption begins.
    compile_later(r"(?:[\w']+ ){0,1}[\w']+ ?!\s+(?=[A-Z])|(?i:yes|understood|perfect|great)\.\s+(?=[A-Z])"),
    compile_later(r"I\b[^\n.:]{1,60}:\s+(?=\S)"),
    compile_later(rf"(?:here(?:'s| is)|below is|see) {_ADJECTIVES}{_NAME}\b[^.:\n]{{0,100}}\.\s*\n+", _I),
    compile_later(r"(?:image )?[\w-]+\.(?:jpe?g|png|webp|txt)\s*[:\n]\s*", _I),
    compile_later(rf"the {_IMAGE} (?:shows|depicts) (?:the following|this)\s*:\s*", _I),
    compile_later(r"the (?:final )?answer is\s*:\s*", _I),
    compile_later(
        rf"(?:a|one|the) (?:possible|fitting|suitable|good|potential|best) {_NAME}[^.:\n]{{0,40}}:\s*", _I
    ),
    compile_later(
        r"(?:sure(?: thing)?|certainly|of course|absolutely|(?:okay|ok|alright)(?: then)?|got it|no problem|definitely)(?:\s*[!.,:]+\s*|\s+[—–-]+\s+)",
        _I,
    ),
    compile_later(
        r"(?:i'd|i would|i'll|i will|i am|i'm) (?:be )?(?:happy|glad|delighted) to [^.!,:\n]{0,80}[.!:]\s*",
        _I,
    ),
    compile_later(r"i can (?:help|do|describe|write)[^.!,:\n]{0,60}[.!:]\s*", _I),
    compile_later(r"(?:thank you|thanks)(?: for| so)[^.!\n]{0,80}[.!]\s*", _I),
    compile_later(
        rf"(?:(?:based on|looking at|after)[^,:\n]{{0,60}},\s*)?(?:here(?:'s| is| are)|below is|this is|the following is)\s+{_ADJECTIVES}"
        rf"{_NAME}\b[^:\n]{{0,100}}:\s*",
        _I,
    ),
    compile_later(
        rf"{_ADJECTIVES}{_NAME}\b(?: (?:for|of) [^:\n]{{0,60}})?\s*(?:is|could be|would be)\s*:\s*", _I
    ),
    compile_later(
        r"(?:hier (?:ist|sind)|voici|aquí (?:está|tienes)|ecco|aqui está|以下是|这是|以下は|こちらは)[^:：\n]{0,80}[:：]\s*",
        _I,
    ),
    ANSWER_LABEL,
)
# A few words before the caption, as in `Image (1 of 3): A cat`.
FIRST_CLAUSE = compile_later(r"\A([^\n:.!?]{1,60})\s*(?::|->|→)\s+(?=[A-Z\"“])")
FIRST_EXCLAMATION = compile_later(r"\A([^.!?\n:]{1,60}!)\s+(?=[A-Z])")
# A first sentence that praises the picture.
PRAISE = compile_later(r"\b(?:image|picture|photo|photograph|shot|composition|capture)!$", _I)
FIRST_PARAGRAPH = compile_later(r"([^\n]+)\n\s*\n(?=\s*\S)")
# A paragraph that is a remark if there are other paragraphs: text in brackets, or a few words about captions.
BESIDE_CAPTION = compile_later(
    rf"[(\[*_]{{1,2}}[^()\[\]]+[)\]*_]{{1,2}}|(?:\w+ ){{0,3}}{_NAME}(?: \w+){{0,3}}[.!]", _I
)
CLOSING = compile_later(
    # An emoji may come first.
    r"(?:(?<=[.!?\"”*)\]])\s+(?:[^\w\s\"“'(*\[]{1,3}\s+)?|(?<=[。！？])\s*|\n\s*)[(*_]{0,3}(?:let me know|(?:best|kind|warm) regards\b|hope you (?:like|enjoy)|(?:powered|provided) by \w+\W*$|p\.\s?s\.(?! is\b)|\[end of|i can also|i could also|i hope (?:this|that|it)|hope (?:this|that) helps|feel free to"
    r"|would you like (?:me|another|a )|if you(?:'d| would)? (?:like|need|want|prefer|have any)|is there anything|do you want me"
    r"|i (?:can't|cannot|can not|am unable to|'m unable to|am not able to|won't) (?:identify|determine|tell|provide|recogni[sz]e|confirm)"
    r"|please let me know|(?:please )?note that|this caption |the caption (?:captures|is |above|aims|highlights)|(?:word|token|character) count|total words|(?:would this|does this|shall i|should i)\b[^\n]*\?\W*$|happy captioning|enjoy!|(?:this image was |caption )?(?:generated|described|written) by (?:an? )?ai\b"
    rf"|{languages.CLOSING}"
    r"|(?:confidence|certainty|caption length|sources|model|author|trigger(?: word)?)(?: score| level)?[*_]{0,2}\s*[:=]|[(\[]?\d{1,4} (?:words?|characters?|tokens?)[)\]]?\W*$|(?:words?|characters?|tokens?|length)\s*[:=]\s*\d{1,4}[)\]]?\W*$)[\s\S]*$",
    _I,
)
CLOSING_NOTE = compile_later(
    r"\n\s*[(*_>]{0,3}(?:note|explanation|rationale|reasoning|disclaimer|details|tone|mood|style|tags|keywords|alt text|negative prompt|translation)[\s*_]*:[\s\S]*$",
    _I,
)
# What is written beside a caption, on lines of its own.
SIDE_TEXT = compile_later(
    r"\n\s*(?:[-*•>]\s+|#{1,6}\s+|[(*_]{1,3})?(?:alt(?:ernative)?(?:[- ]?text)?|hash ?tags?|tags|key ?words?)[\s*_]*(?:[:：]|\)|\n)(?![\s\S]*\bcaption\W*[:：])[\s\S]*$",
    _I,
    needs=("\n",),
)
# At least two labelled lines after a sentence.
PARTS_AFTER = compile_later(
    r"(?<=[.!?])\s*\n+(?:[ \t]*[-*•]?[ \t]*[*_]*[A-Z][A-Za-z ]{2,24}[*_]*:[^\n]+(?:\n+|\Z)){2,}\Z"
)
# A signature: a last line that begins with dashes.
SIGNATURE = compile_later(r"(?<=[.!?])\s*\n\s*(?:--|[—–~])\s?[\w.-]+(?: [\w.-]+){0,4}\W*\Z")
# Last lines without a letter or digit, and emojis after the last sentence.
DECORATION = compile_later(r"(?:\n[^\w\n]+)+\Z|(?<=[.!?])\s+[^\w\s\x00-\x7f”»」]+\Z")
TAGS_BESIDE = compile_later(
    r"(?<=[.!?])\s+(?:\|\s*(?:tags|keywords|title|style|mood)|alt[- ]text|hash ?tags)\s*:.*$", _I
)
HASHTAGS = compile_later(r"\n\s*(?:#\w+\s*)+$|(?:\s+#\w+){2,}\s*$")
SENTENCE_BREAK = compile_later(r"(?:(?<=[.!?…])|(?<=[.!?][\"”)]))\s+(?=\W{0,3}[A-Z]|[\[(])|\n\s*")
AFTER_CAPTIONS = (CLOSING, CLOSING_NOTE, PARTS_AFTER, SIGNATURE, HASHTAGS, DECORATION, TAGS_BESIDE)
SEPARATOR = compile_later(r"\A\s*(?:-{3,}|\*{3,}|_{3,}|={3,})\s*$|^\s*(?:-{3,}|\*{3,}|_{3,}|={3,})\s*\Z", _M)
# A last line that follows a ruled line.
AFTER_LINE = compile_later(r"\n\s*[-*_=]{3,}\s*\n([^\n]+)\Z")
HEADING = compile_later(rf"^\s*#{{1,6}}\s+(?:{_LABEL}\s*$)?", _I | _M, needs=("#",))
LIST_ITEM = compile_later(r"^\s*(?:[-*•]|\d{1,2}[.):])\s+", _M)
MARKDOWN = (
    (compile_later(r"!\[[^\]\n]{0,400}\]\([^)\n]{0,400}\)"), ""),
    (compile_later(r"\[([^\[\]\n]{1,400})\]\([^)\n]{0,400}\)"), r"\1"),
    (compile_later(r"(\*\*|__)(?=\S)(.+?)(?<=\S)\1", re.DOTALL), r"\2"),
    (compile_later(r"(?<![\w*])\*(?=[^\s*])([^*\n]+)(?<=\S)\*(?![\w*])"), r"\1"),
    (compile_later(r"\A_([^_]+)_\Z"), r"\1"),
    (compile_later(r"^\s*>\s+", _M), ""),
)

# Text in the picture that a caption quotes.
QUOTED = compile_later(r"\"[^\"\n]*\"|“[^”\n]*”|(?<!\w)'[^'\n]{3,}'(?!\w)|(?<!\w)\*[^*\n]+\*(?!\w)")
_CANNOT = r"(?:do not|don't|did not|didn't|can not|cannot|can't|am unable to|'m unable to|am not able to|'m not able to|could not|couldn't)"
NO_IMAGE = compile_later(
    rf"\bi ?{_CANNOT} (?:actually |directly |currently |physically )?(?:see|view|access|open|find|detect|process|analy[sz]e|look at|"
    rf"perceive|receive|load|display|have)\b[^.!?]{{0,60}}{_IMAGE}"
    rf"|\b(?:there is|there's|there was|i see|i have|i got) no {_IMAGE}(?:\W*$|\s*[.!,;]|[^.!?]{{0,20}} (?:attached|to (?:caption|describe|see)"
    r"|in (?:your|the|this|our) (?:message|chat|conversation|prompt|request)))"
    rf"|^(?:sorry,? |error: )?(?:no {_IMAGE} (?:found|available|detected|given|was found)|(?:the |your |this )?{_IMAGE} (?:not found|(?:could|can)"
    rf"(?: ?not|n't) be)|(?:failed|unable) to (?:load|fetch|open|download|process|decode|read|retrieve|access|see|view)\b[^.]{{0,30}}{_IMAGE})"
    r"|\bi(?:'m| am) (?:only |just )?a (?:text|language|large language)\b"
    rf"|\bno {_IMAGE}[^.!?]{{0,30}}\b(?:attached|provided|uploaded|included|received|shared|was sent)\b"
    rf"|\b(?:please|could you|can you|kindly)\b[^.!?]{{0,30}}\b(?:re-?upload|upload|attach|provide|share|send|resend|paste|describe)\b"
    rf"[^.!?]{{0,60}}\b(?:{_IMAGE}|it\b)"
    rf"|\b{_IMAGE}[^.!?]{{0,40}}\b(?:wasn't|was not|isn't|is not|didn't|did not|hasn't|has not|doesn't|does not|failed to)"
    r" (?:been |seem to |appear to )?(?:be )?(?:attach|upload|come through|load|provided|included|received|shared)"
    rf"|\b(?:if|once|when|after) you(?:'ve| have| can| could)? (?:re-?)?(?:upload|provide|share|attach|describe|send)\w*\b[^.!?]{{0,40}}\b{_IMAGE}"
    r"|\b(?:text-based|text-only) (?:ai|model|assistant|language)"
    r"|\b(?:don't|do not) have (?:the (?:ability|capability) to|access to|vision|visual)"
    r"|\[img-\d+\]"
    rf"|\b(?:cannot|can't|unable to|not able to) (?:see|view) (?:any )?(?:{_IMAGE}|them|it)"
    rf"|\b(?:it (?:looks|seems|appears)(?: like| as if| that)? )?you(?:'ve| have)? (?:sent|forgot|forgotten|uploaded|attached|provided)\b[^.!?]{{0,30}}{_IMAGE}"
    rf"|\b{_IMAGE}[^.!?]{{0,20}} (?:is|was) not visible|\bi (?:would )?need (?:to see )?(?:the|an|your) {_IMAGE}"
    rf"|(?:{languages.BLIND})"
    rf"|\bthere (?:does not|doesn't) (?:appear|seem) to be (?:an?|any) {_IMAGE}|\byou (?:have not|haven't|did not|didn't) (?:shared?|included?|attach(?:ed)?|upload(?:ed)?|provided?|sent|send) (?:an?|any|the|your) {_IMAGE}"
    rf"|^\W*(?:no|empty|missing|invalid|unsupported) {_IMAGE}(?: to describe| format| url)?\W*$|^\W*{_IMAGE} (?:is )?(?:not loaded|missing|too large)\W*$|^this conversation contains no {_IMAGE}"
    r"|^the image (?:appears|seems) to be (?:blank|empty|missing|corrupted|broken)\b",
    _I,
)
REFUSAL = compile_later(
    r"(?:unfortunately,? |apologies,? |[^,.!?]{1,30}, (?:but|aber|mais|pero|ma|mas|maar|ale|men|mutta|но) )?(?:(?:but )?(?:\b(?:i'?m|i am) (?:really |so |very )?sorry|\bsorry,? (?:but )?(?:i|this|that|we)\b|i apologi[sz]e"
    r"|my apologies|as an? (?:ai|large language model|language model)(?:,| (?:assistant|language|model|text|system|developed|i\b))|i (?:can(?:no|')t|can not|am unable to|'m unable to|won't|will not|must decline)"
    r"|i'?m (?:unable|not able|not comfortable)|unable to (?:assist|comply)"
    rf"|{languages.REFUSAL})"
    r"|i (?:do not|don't|would not|wouldn't) feel comfortable|(?:the|this) image (?:contains|shows|has)[^.]{0,40}\bi (?:can't|cannot|won't)\b"
    r"|this (?:content|request|prompt|image) (?:may |might |appears to )?(?:violates?|goes against|was (?:blocked|flagged|rejected|filtered))\b"
    r"|\W*content (?:was |has been )?(?:removed|blocked|filtered|flagged)\b|(?:un)?safe\s+s\d{1,2}(?:\s*,\s*s\d{1,2})*\W*$|[^.!?]{0,60}\b(?:is|are|goes) against (?:my|our) \w+)",
    _I,
)
REASONING = compile_later(
    r"^(?:could|might|may) (?:be|have)\b|^(?:(?:we are given|we must|the question asks|you are an? (?:helpful )?assistant|system: you are)\b|(?:task|instructions?|query)\s*:)|^(?:(?:okay|ok|alright|hmm+|well|wait|so|now|first|got it|right)[,.:!…]*\s+)*(?:let me (?:look|think|see|analy[sz]e|describe|start"
    r"|examine|consider)|let's (?:see|look|analy[sz]e|think|break|tackle|describe|start)|i need to|i should|i have to|i'll (?:describe|start|need"
    r"|write|analy[sz]e|look)|i will (?:describe|start|write|analy[sz]e)|we need to|we should|we have to|the task is|my task"
    r"|the prompt (?:asks|says|wants)|the instructions?\b)"
    r"|\bthe user (?:wants|asks|asked|is asking|has asked|has provided|provided|uploaded|needs|would like)\b"
    r"|\bi should (?:mention|describe|note|include|avoid|focus|write|make)\b|(?:[.!?…]\s+wait, (?:the|i|let|maybe|is|no)\b|^wait, (?:the|i|let|maybe|is|no)\b.*[.!?]\s)"
    r"|\bthe caption (?:must|should|needs? to|has to)\b|\bmy caption (?:must|should)|\b(?:word count|something like)\s*:|(?:^|[.!?]\s+)draft\s*:|\blet me (?:write|craft|draft|count)\b|\bthe instructions say\b"
    rf"|{languages.REASONING}"
    r"|^first(?:ly)?[,:].*[.;]\s+second(?:ly)?[,:]|^(?:step 1\s*[:.]|first, i (?:look|need|see|will|should)|(?:analysis|thoughts?|reasoning|thinking)\b[^.:]{0,20}:)",
    _I,
)
# Two labels, each at the beginning of a sentence or line. Writing in a picture has no such labels.
LABELLED_ALTERNATIVES = compile_later(
    rf"(?:\A|(?<=[:.!?\n\"”*])\s*)\W*({_ALTERNATIVE}) #?(?:1|one|a|i){_KIND}[*_]*\s*[:—–-].+(?:\n|[.!?\"”*]\s+)\W*\1 #?(?:2|two|b|ii){_KIND}[*_]*\s*[:—–-]"
    rf"|\A\W*(?:short|brief|simple)(?: version| caption)?{_KIND}[*_]*:.+(?:\n|[.!?\"”*]\s+)\W*(?:medium|long|detailed|descriptive)(?: version| caption)?{_KIND}[*_]*:",
    _I | re.DOTALL,
)
ALTERNATIVES = compile_later(
    rf"^\W*1(?:[.)]\s|{_KIND}:).+\s2(?:[.)]\s|{_KIND}:)|\b(?:option|caption|alternative|version|variant) (?:1|one|a){_KIND}[*_]*\s*[:.)—–-].+\b(?:option|caption|alternative|version|variant)"
    r" (?:2|two|b)\b|(?:^|[.!?\"”]\s+)(?:alternatively|alternative|another option|variation|variant)\b\s*[,:]|[?] or\b|[.!\"”] or (?-i:[\"“A-Z])"
    # Two labels with the same word, or a ruled line between two texts.
    rf"|\b([a-z]+) ?#?[1a]{_KIND}\s*:.{{1,600}}\b\1 ?#?[2b]{_KIND}\s*:"
    r"|\s(?:-{3,}|\*{3,}|_{3,}|={3,})\s|[.!\"”] or,"
    r"|^\W*a[.:)] .+\s\(?b[.:)] \S|\bshort(?: \([^()]{1,40}\))?: .+\b(?:medium|long)(?: \([^()]{1,40}\))?: |^\W*[-*•] .+\s[-*•] \S|\bhere are (?:\w+ ){0,3}(?:captions|options|descriptions|alternatives|suggestions|versions)\b",
    _I | re.DOTALL,
)
QUESTION = compile_later(
    r"^[^.!?]{1,25}\?$|^(?:what|which|who|where|how|why|is|are|do|does|can|could|would)\b[^.!?]*\?$|^i (?:have|'ve) (?:generated|created|written|saved|captioned|described)\b|^(?:yes,? )?i can (?:help|assist|see (?:the|your|this) (?:image|picture|photo))\b|^i will (?:now|try to) \w+|^(?:what|which|would|could|do|does|how|can|shall|should|may)\b[^?]*\b(?:you|i|me)\b[^?]*\?$|\bhow (?:can|may) i (?:help|assist)"
    r"|\b(?:happy|glad) to (?:help|assist|write|generate|provide|create)\b",
    _I,
)
ERROR_TEXT = compile_later(
    r"(?:(?:internal |server |unknown |unexpected )?error\s*(?:[:(]|\d+\W*$|(?:loading|reading|processing|opening|decoding|while|during)\b)|invalid api key\W*$|model\s+(?:'[^']*' )?not found|segmentation fault|payment required\W*$|request failed with status|panic: |\w*_assert: |could not (?:process|load|decode|read|open)|failed to|your (?:trial|plan|subscription|account|api key|credits?|request|prompt)\b|context length|the model\b[^.]{0,40}does not exist|task completed|done\b\W*$|insufficient (?:credits?|quota|balance|funds)|please (?:log|sign) in\b|(?:(?:processing|loading|generating|waiting)\b[^.\n]{0,20}|thinking\b[^.\n]{0,40})(?:\.\.\.|…)\W*$|an error (?:has )?occurred|internal server error|bad gateway|service unavailable|gateway time-?out|too many requests|traceback"
    r" \(most|\w*exception:|\w+error(?::|\s+[-–—(])|cuda (?:error|out of memory)|out of memory|rate limit|unauthorized|http(?:/[\d.]+)? \d{3}|[45]\d\d:? [a-z]"
    r"|upstream (?:connect|request) |you(?: are out of|(?: have|'ve)? (?:exceeded|reached|hit|used up))|(?:the )?(?:model|server|engine) is (?:currently )?"
    r"(?:overloaded|busy|loading|unavailable)(?:\W*$|[.,;] )|(?:please )?try again later|quota exceeded)",
    _I,
)
PLACEHOLDERS = compile_later(
    r"[\[({<]*no (?:caption|description)[\])}>]*|https?://\S+|data:image/\S*|[\w-]+\.(?:jpe?g|png|webp|gif)|[A-Za-z\d+/=]{60,}|no (?:caption|description)(?: is)?(?: available| provided| generated)?\W*"
    r"|[\[{<(]+\s*(?:insert|your|caption|description|image|add|write|short|a short|a brief|the caption)\b[^\]}>)]*[\]}>)]+\W*"
    rf"|(?:an? |the )?(?:short |brief |detailed )?{_NAME}(?: (?:of|for) (?:the|this|an?|your) {_IMAGE})?\W*"
    rf"|(?:your |the |an? )?{_NAME} (?:goes )?here\W*|(?:figure|chapter|page|image|photo|picture|untitled|caption) ?#?\d+\W*",
    _I,
)
PLACEHOLDER_WORDS = frozenset(
    (
        *(
            "",
            "n/a",
            "na",
            "nan",
            "none",
            "null",
            "object object",
            "string",
            "text",
            "todo",
            "undefined",
            "unknown",
            "untitled",
        ),
        *("image", "photo", "picture", "no caption", "your caption", "your caption here"),
        *("hello", "hi", "no", "ok", "okay", "sure", "thank you", "thanks", "yes"),
        *(
            "assistant",
            "will do",
            "loading",
            "model",
            "processing",
            "safe",
            "sorry",
            "system",
            "unsafe",
            "user",
        ),
    )
)
MARKUP = compile_later(
    r"[{]|\[[{\"]|<[a-z!?/][^>]*>|\|[^|]*\|\s*\|?\s*:?-{3}|(?:tool|function)_?\w*\s*:|[a-z_]\w*\((?:\w+=)? *(?:,.*)?\)\W*$",
    _I,
)
# Raw tokens of byte-level tokenizers, and UTF-8 that was decoded with another encoding.
RAW_TOKENS = compile_later(r"\AaddCriterion|[ĠĊ]{2}|\w[ĠĊ]\w|[ÃÂ][\u0080-\u00bf]|â€")
NUMBER = compile_later(r"\d+")
ENTITY = compile_later(r"&(?:quot|amp|lt|gt|apos|nbsp|#\d{1,6}|#x[0-9a-f]{1,5});", _I)
# Checked only in answers of models: people may write captions with such words.
SPEAKING = compile_later(
    # "I" at the beginning of a clause.
    r"(?:^|[.!?,:;]\s+|\b(?:but|and|so|that|as|if)\s+)I(?:'\w+)?\s+[a-z]"
    # "I" before a verb, but not after a capitalised word, as in "King Charles I".
    r"|\b[a-z]+ I(?:'\w+| (?:can|could|would|will|may|might|must|should|do|did|am|was|have|had|see|need))\b|\b(?:Should|Shall|Can|Could|May|Do|Did|Must|Would) I\b|(?i:"
    r"^(?:so|hmm+|well|alright|okay|ok|right|thanks|thank you)[,.!…]|^(?:q|question|human|user)\s*:|(?:^|[.!?] )(?:unfortunately|regrettably|apologies|sadly)\b|^(?:waiting|ready|standing by)\b[^.]{0,30}"
    rf"{_IMAGE}|"
    r"^(?:let me|let's(?! dance\b)|looks like|as (?:instructed|requested|discussed|promised|agreed))\b|\bi'm (?:not |un)?able\b|^(?:hi|hello|hey)(?:[,!.]| (?:there|everyone|user)\b|\W*$)"
    r"|\bplease (?:specify|provide|upload|share|send|attach|try|check|let|note|clarify|wait)\b"
    r"|\bcaptions? (?:is|are|was|were|should|must|might|could|would|may|can|generated|created|written|complete)\b|\b(?:write|generate|create|provide) (?:a |an |the )?captions?\b"
    r"|(?:\b(?:is|am|'m)|^as) (?:an? |the )(?:[\w-]+ ){0,2}(?:language|multimodal|vision|ai) (?:model|assistant)\b|^i(?: am|'m) \w+, an? "
    rf"|{languages.SPEAKING}"
    rf"|\b{_IMAGE}[^.!?]{{0,20}} (?:is (?:missing|empty|blank|unavailable)(?:\W*$|[.!;] )|returned \d|failed|may contain|contains sensitive)|\b(?:upload|download) failed\b"
    rf"|^(?:there(?:'s| is) )?nothing (?:to describe|to caption|(?:in|on) (?:the|this) {_IMAGE})"
    r"|\b(?:this|the|your) (?:model|deployment|assistant|api|server|request|endpoint|response|provider)\b[^.]{0,40}\b(?:not|cannot|can't|unavailable|failed|filtered|blocked)\b"
    r"|\bis not (?:supported|enabled|available)(?:\W*$|[.!;] | (?:for|in|by|on) (?:this|the|your)\b)|^(?:\w+ )?not found\W*$|\bno (?:visual|image|vision) input\b|\bsomething went wrong\b|\btimed out\W*$"
    r"|\btemporarily unavailable\b|^connection (?:reset|refused|error|closed|timed)\b|^sounds (?:good|great)\b|^(?:access denied|forbidden)\W*$|\bbe logged in\b|\btry again\b"
    rf"|^(?:now )?(?:analy[sz]ing|describing|looking at|examining|reading) (?:the|this|your) {_IMAGE}(?:(?: now)?\W*$|, I\b)|^(?:one moment|hold on|just a (?:moment|second))\b"
    r"|\bthanks for sharing\b|^user (?:says|asks|wants|said|asked)\b"
    r"|^(?:blocked|flagged|rejected|filtered|refused|denied)(?:\W*$|[:.] | (?:by|due|because|for)\b)|^lorem ipsum\b|\bthis assistant\b)",
)
# Actions in the first person that only the person in the picture or the photographer does, never a model.
FIRST_PERSON = compile_later(
    r"^(?:I am|I'm|We are|We're) \w+ing\b|^(?:I|We) (?:hold|stand|sit|lean|walk|wear|carry|lie|ride|climb|swim|run)\b|\b(?:my|me)\b|^My\b",
)
# Words that address the reader. Names and titles, such as "My Neighbour Totoro", are excluded by their capitals.
ADDRESSED = compile_later(
    r"\b(?:me|my|your|yours)\b|^(?:My|Your|We|Ask|Tell|Sorry|[Pp]lease|Welcome to)\b(?! [A-Z][a-z])|^Welcome to\b"
    r"|(?<!at )(?<!to )(?<!toward )(?<!towards )(?<!thank )(?<!facing )(?<!behind )(?<!if )(?<!though )(?<!with )(?<!for )\byou(?:'\w+)?\b"
    r"|^You(?:'\w+)?(?= [a-z])"
    rf"|^(?i:what an? |(?:great|nice|beautiful|lovely|stunning|amazing|wonderful|gorgeous) |wow\b|thanks\b|thank you\b)(?:[^.!?]{{0,40}}!|(?i:[^.!?]{{0,20}}\b{_IMAGE})[.])"
    r"|\b(?:problem|issue|trouble|error)s? (?:with|in|loading|reading|opening|processing) (?:the|this|that) (?i:image|picture|photo|file|upload)"
    rf"|(?i:\b{_IMAGE} (?:is|was|looks|seems) (?:[\w-]+ ){{1,4}}to (?:describe|caption|make out|see|tell|recogni[sz]e|identify))"
)
CODE = compile_later(
    r"^\w+ = [\w^+*/ -]{1,20}$|^[A-Za-z_][\w.]*\([^()]*[{=\[]|^(?:return ['\"\[{]|def \w+\(|curl -)|^(?:import|from) [\w.]+(?:$| import | \w+[.(])|^SELECT\b.+\bFROM\b|\w\((?:\d+(?:, ?\d+)+)?\)\W*$|[;{}]$"
)
# Labels at the start of sentences. Positions in the picture, such as `Left:`, do not count.
LABELS = compile_later(
    r"(?:^|(?<=[.,;!?\s]))(?!(?:Left|Right|Cent(?:er|re)|Top|Bottom|Foreground|Midground|Background):)[A-Z][A-Za-z ]{0,20}:\s"
)
LOWER_LABELS = compile_later(r"(?:^|\s)[a-z_]{2,20}: ")
# A form: at least two placeholders in brackets, such as `[subject] … [place]`.
TEMPLATE = compile_later(
    r"[\[{<](?!trigger)[a-z][a-z /]{1,24}[\]}>].*[\[{<](?!trigger)[a-z][a-z /]{1,24}[\]}>]"
)
# An unfinished last sentence.
UNFINISHED = compile_later(
    r"(?<=[.!?])\s+(?:The|An?|His|Her|Its|Their|In|On|Behind|There|It|He|She|They|At|To|With|Two|Three|Several)\s[^.!?…\"”)]*[\w,-]\Z"
)
# The output of an object detector: scores, a table, or a list of objects.
DETECTIONS = compile_later(
    r"(?:\b[a-z]+:? \(?[01]\.\d+\b.*){2}|(?: = .*){2}|^(?:objects? detected|detected objects?|labels?|classes|classification)\s*:|^\|.*\|\s*:?-{3}",
    _I,
)
# An introduction that says that the image could not be seen. The description after it is made up.
MADE_UP = compile_later(
    r"\b(?:can't|cannot|can not|unable to|couldn't|no way to) (?:\w+ )?(?:see|view|open|access|load|look)\b|\bgeneric\b|\binvent",
    _I,
)
# A cut answer: it ends with a word that ends no sentence, or has an unclosed bracket. `:(` is a tag.
ENDS_EARLY = compile_later(
    r"\s(?:an?|the|and|or|of|with|its|their|which|into|from|while|as|at|to|for|who|is|are|was|his|very|than|where|when|each|every|und|oder|der|eine[mnr]?|von|im|et|ou|du|des|les|une|avec|dans|del|los|las|con|una|di|della|il"
    r"|и|с|на|в)(?:,|…|\.\.\.)?$|(?<![:;=])\([^()]{2,}[^()\s.!?]$"
)
ENDS_OPEN = compile_later(r"[:：]\W*$")
REPEATED_CHARACTERS = compile_later(r"(\S{1,8}?)\1{11,}")
