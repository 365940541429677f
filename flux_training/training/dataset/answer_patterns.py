"""The patterns that `model_answers` looks for. Apostrophes are `'` in the texts that they are applied to."""

import re

# ruff: noqa: RUF001 - some models' tokens have full-width characters
_I = re.IGNORECASE
_M = re.MULTILINE

_THOUGHT = r"(?:seed:)?(?:think|thinking|thought|thoughts|reasoning|reflection|analysis|scratchpad)"
REASONING_OPEN = re.compile(
    rf"<{_THOUGHT}>|\[{_THOUGHT}\]|◁{_THOUGHT}▷|<\|(?:begin_of_)?{_THOUGHT}\|>|<unused94>|<\|channel\|>", _I
)
REASONING_CLOSE = re.compile(
    rf"</{_THOUGHT}>|\[/{_THOUGHT}\]|◁/{_THOUGHT}▷|<\|(?:/|end_of_){_THOUGHT}\|>|<unused95>", _I
)
FINAL_CHANNEL = re.compile(
    r"<\|channel\|>final\s*<\|message\|>|\Aanalysis[\s\S]*?assistantfinal|\Ahere(?:'s| is) my thought process:[\s\S]*?here(?:'s| is) my response:",
    _I,
)

# What follows one of these is another turn of the conversation.
END_TOKEN = re.compile(
    r"<\|(?:im_end|endoftext|eot_id|end_of_text|end|eom_id|end_of_turn|return|endofanswer)\|>|</s>|<eos>|<end_of_turn>"
    r"|<｜end▁of▁sentence｜>|<\|im_start\|>\s*user|\n\s*(?:#{2,} *)?(?:user|human|instruction):|\[end of text\]|(?<=[.!?])assistant\b",
    _I,
)
SPECIAL_TOKEN = re.compile(
    r"<\|[^|<>\n]{1,40}\|>|<｜[^｜<>\n]{1,40}｜>|</?s>|<unused\d+>|<loc_\d+>|\[/?INST\]|<</?SYS>>"
    r"|</?(?:bos|eos|pad|unk|image|img|start_of_turn|end_of_turn|start_of_image|end_of_image|grounding|phrase|ref|answer"
    r"|caption|detailed_caption|more_detailed_caption|response|output|final|result|p|br|b|i|em|strong|span|div)\s*/?>",
    _I,
)
# Places of objects in the image, as grounding models add them.
REGIONS = re.compile(r"<(box|object|quad)>.{0,400}?</\1>|\[\[?\d{1,4}(?:, ?\d{1,4}){3}\]?\]", _I | re.DOTALL)
BOXED = re.compile(r"\\boxed\{(?:\\text\{)?([^{}]*)\}?\}")
TURN = re.compile(r"(?:^|\s)(?:ASSISTANT|### ?(?:Assistant|Response|Answer)):\s*")
ROLE = re.compile(
    r"^\s*(?:assistant|model|chatbot|(?:gpt|claude|gemini|gemma|llava|qwen|mistral|pixtral|internvl)[-.\w]*)\s*(?::|\n)\s*",
    _I,
)
FENCE = re.compile(r"```(?:[a-z]*\n)?(.{0,10000}?)```", _I | re.DOTALL)

BEFORE_JSON = re.compile(r"\A[^{\[]{0,200}:\s*(?=\{)")

_NAME = r"(?:captions?|descriptions?|alt[- ]?text)"
_OTHER_LANGUAGES = r"(?:bild)?(?:unterschrift|beschreibung)|légende|descripción|leyenda|didascalia|legenda|(?:图片|图像)?(?:描述|说明|标题)|キャプション|画像の説明"
_LABEL = rf"(?:(?:final|short|brief|image|photo|picture|suggested|detailed|generated|english|revised)\s+){{0,3}}(?:{_NAME}|answer|output|{_OTHER_LANGUAGES})"
ANSWER_LABEL = re.compile(rf"^[^\w\n\[({{<]*{_LABEL}(?:[\s*_\"]*[:：]|\s+[—–-]\s)[\s*_]*", _I)
LABEL_LINE = re.compile(r"^[\s*_#>\"-]*[A-Za-z][A-Za-z ]{1,24}[\s*_\"]*:")
_ADJECTIVES = (
    r"(?:(?:a|an|the|my|your|one|short|brief|concise|detailed|possible|suggested|simple|descriptive|revised|accurate"
    r"|image|photo|100-word|\w+-word)\s+){0,6}"
)
INTRODUCTIONS = (
    re.compile(
        r"(?:sure(?: thing)?|certainly|of course|absolutely|okay|ok|alright|got it|no problem|definitely)\s*[!.,:]+\s*",
        _I,
    ),
    re.compile(
        r"(?:i'd|i would|i'll|i will|i am|i'm) (?:be )?(?:happy|glad|delighted) to [^.!,:\n]{0,80}[.!:]\s*",
        _I,
    ),
    re.compile(r"i can (?:help|do|describe|write)[^.!,:\n]{0,60}[.!:]\s*", _I),
    re.compile(r"(?:thank you|thanks)(?: for| so)[^.!\n]{0,80}[.!]\s*", _I),
    re.compile(
        rf"(?:(?:based on|looking at|after)[^,:\n]{{0,60}},\s*)?(?:here(?:'s| is| are)|below is|this is|the following is)\s+{_ADJECTIVES}"
        rf"{_NAME}\b[^:\n]{{0,100}}:\s*",
        _I,
    ),
    re.compile(
        rf"{_ADJECTIVES}{_NAME}\b(?: (?:for|of) [^:\n]{{0,60}})?\s*(?:is|could be|would be)\s*:\s*", _I
    ),
    re.compile(
        r"(?:hier (?:ist|sind)|voici|aquí (?:está|tienes)|ecco|aqui está|以下是|这是|以下は|こちらは)[^:：\n]{0,80}[:：]\s*",
        _I,
    ),
    ANSWER_LABEL,
)
CLOSING = re.compile(
    r"(?:(?<=[.!?\"”*)\]])\s+|\n\s*)[(*_]{0,3}(?:let me know|i hope (?:this|that|it)|hope (?:this|that) helps|feel free to"
    r"|would you like (?:me|another|a )|if you(?:'d| would)? (?:like|need|want|prefer|have any)|is there anything|do you want me"
    r"|i (?:can't|cannot|can not|am unable to|'m unable to|am not able to|won't) (?:identify|determine|tell|provide|recogni[sz]e|confirm)"
    r"|please (?:let me know|note that)|this caption |the caption (?:captures|is |above|aims|highlights)|word count|total words"
    r"|ich hoffe,? |lass mich wissen|j'espère |n'hésitez pas|espero que|[(\[]?\d{1,4} (?:words?|characters?|tokens?)[)\]]?\W*$)[\s\S]*$",
    _I,
)
CLOSING_NOTE = re.compile(
    r"\n\s*[(*_>]{0,3}(?:note|explanation|rationale|reasoning|disclaimer)[\s*_]*:[\s\S]*$", _I
)
HASHTAGS = re.compile(r"\n\s*(?:#\w+\s*)+$|(?:\s+#\w+){2,}\s*$")
SEPARATOR = re.compile(r"^\s*(?:-{3,}|\*{3,}|_{3,}|={3,})\s*$", _M)
HEADING = re.compile(rf"^\s*#{{1,6}}\s+(?:{_LABEL}\s*$)?", _I | _M)
LIST_ITEM = re.compile(r"^\s*(?:[-*•]|\d{1,2}[.)])\s+", _M)
MARKDOWN = (
    (re.compile(r"!\[[^\]\n]{0,400}\]\([^)\n]{0,400}\)"), ""),
    (re.compile(r"\[([^\[\]\n]{1,400})\]\([^)\n]{0,400}\)"), r"\1"),
    (re.compile(r"(\*\*|__)(?=\S)(.+?)(?<=\S)\1", re.DOTALL), r"\2"),
    (re.compile(r"(?<![\w*])\*(?=[^\s*])([^*\n]+)(?<=\S)\*(?![\w*])"), r"\1"),
    (re.compile(r"^\s*>\s+", _M), ""),
)

# Writing in the picture, which a caption quotes.
QUOTED = re.compile(r"\"[^\"\n]*\"|“[^”\n]*”|(?<!\w)'[^'\n]{3,}'(?!\w)|(?<!\w)\*[^*\n]+\*(?!\w)")
_IMAGE = r"(?:image|picture|photo|photograph|attachment|file|visual content|screenshot|link|url)s?\b"
_CANNOT = r"(?:do not|don't|did not|didn't|can not|cannot|can't|am unable to|'m unable to|am not able to|'m not able to|could not|couldn't)"
NO_IMAGE = re.compile(
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
    r"|\b(?:ich sehe kein|ich kann (?:das|kein) bild|no veo ninguna imagen|no puedo ver|je ne vois (?:pas|aucune)|non vedo)\b"
    r"|не вижу изображени|não (?:consigo|posso) ver|ik zie geen|nie widzę|看不到图|没有看到图|无法(?:查看|看到)|请上传|画像が(?:見え|添付)|이미지를 볼 수 없"
    r"|^the image (?:appears|seems) to be (?:blank|empty|missing|corrupted|broken)\b",
    _I,
)
REFUSAL = re.compile(
    r"(?:unfortunately,? |apologies,? )?(?:(?:but )?(?:\b(?:i'?m|i am) (?:really |so |very )?sorry|\bsorry,? (?:but )?(?:i|this|that|we)\b|i apologi[sz]e"
    r"|my apologies|as an? (?:ai|large language model|language model)(?:,| (?:assistant|language|model|text|system|developed|i\b))|i (?:can(?:no|')t|can not|am unable to|'m unable to|won't|will not|must decline)"
    r"|i'?m (?:unable|not able|not comfortable)|unable to (?:assist|comply)"
    r"|es tut mir leid|tut mir leid|lo siento|je suis désolé|désolé,|mi dispiace|desculpe)|抱歉|很抱歉|对不起|申し訳|我无法|我不能|извините"
    r"|this (?:content|request|prompt|image) (?:may |might |appears to )?(?:violates?|was (?:blocked|flagged|rejected|filtered))\b"
    r"|\W*content (?:was |has been )?(?:removed|blocked|filtered|flagged)\b|(?:un)?safe\s+s\d)",
    _I,
)
REASONING = re.compile(
    r"^(?:(?:okay|ok|alright|hmm+|well|wait|so|now|first|got it|right)[,.:!…]*\s+)*(?:let me (?:look|think|see|analy[sz]e|describe|start"
    r"|examine|consider)|let's (?:see|look|analy[sz]e|think|break|tackle|describe|start)|i need to|i should|i have to|i'll (?:describe|start|need"
    r"|write|analy[sz]e|look)|i will (?:describe|start|write|analy[sz]e)|we need to|we should|we have to|the task is|my task"
    r"|the prompt (?:asks|says|wants)|the instructions?\b)"
    r"|\bthe user (?:wants|asks|asked|is asking|has asked|has provided|provided|uploaded|needs|would like)\b"
    r"|\bi should (?:mention|describe|note|include|avoid|focus|write|make)\b|\bwait, (?:the|i|let|maybe|is|no)\b"
    r"|^(?:step 1\b|(?:analysis|thoughts?|reasoning|thinking)\b[^.:]{0,20}:)",
    _I,
)
ALTERNATIVES = re.compile(
    r"^\W*1[.)]\s.+\s2[.)]\s|\b(?:option|caption|alternative|version|variant) (?:1|one|a)\b.+\b(?:option|caption|alternative|version|variant)"
    r" (?:2|two|b)\b|(?:^|[.!?\"”]\s+)(?:alternatively|alternative|another option)\b\s*[,:]|[.!?\"”] or [\"“A-Z]"
    r"|^\W*[-*•] .+\s[-*•] \S|\bhere are (?:\w+ ){0,3}(?:captions|options|descriptions|alternatives|suggestions|versions)\b",
    _I | re.DOTALL,
)
QUESTION = re.compile(
    r"^(?:yes,? )?i can (?:help|assist|see (?:the|your|this) (?:image|picture|photo))\b|^i will (?:now|try to) \w+|^(?:what|which|would|could|do|does|how|can|shall|should|may)\b[^?]*\b(?:you|i|me)\b[^?]*\?$|\bhow (?:can|may) i (?:help|assist)"
    r"|\b(?:happy|glad) to (?:help|assist|write|generate|provide|create)\b",
    _I,
)
ERROR_TEXT = re.compile(
    r"(?:error\s*[:(\d]|insufficient (?:credits?|quota|balance|funds)|please (?:log|sign) in\b|(?:processing|loading|generating)\b[^.\n]{0,20}(?:\.\.\.|…)\W*$|an error (?:has )?occurred|internal server error|bad gateway|service unavailable|gateway time-?out|too many requests|traceback"
    r" \(most|\w*exception:|\w+error:|cuda (?:error|out of memory)|out of memory|rate limit|unauthorized|http(?:/[\d.]+)? \d{3}|[45]\d\d:? [a-z]"
    r"|upstream (?:connect|request) |you(?: are out of|(?: have|'ve)? (?:exceeded|reached|hit|used up))|(?:the )?(?:model|server|engine) is (?:currently )?"
    r"(?:overloaded|busy|loading|unavailable)|(?:please )?try again later|quota exceeded)",
    _I,
)
PLACEHOLDERS = re.compile(
    r"https?://\S+|[\w-]+\.(?:jpe?g|png|webp|gif)|[A-Za-z\d+/=]{60,}|no (?:caption|description)(?: is)?(?: available| provided| generated)?\W*"
    r"|[\[{<(]+\s*(?:insert|your|caption|description|image|add|write|short|a short|a brief|the caption)\b[^\]}>)]*[\]}>)]+\W*"
    rf"|(?:an? |the )?(?:short |brief |detailed )?{_NAME}(?: (?:of|for) (?:the|this|an?|your) {_IMAGE})?\W*",
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
        *("assistant", "loading", "model", "processing", "safe", "sorry", "system", "unsafe", "user"),
    )
)
MARKUP = re.compile(
    r"[{]|\[[{\"]|<[a-z!?/][^>]*>|\|[^|]*\|\s*\|?\s*:?-{3}|[a-z_]\w*\((?:\w+=)? *(?:,.*)?\)\W*$", _I
)
# Pieces of words as byte-level tokenizers store them.
RAW_TOKENS = re.compile(r"[ĠĊ]{2}|\w[ĠĊ]\w")
NUMBER = re.compile(r"\d+")
ENTITY = re.compile(r"&(?:quot|amp|lt|gt|apos|nbsp|#\d{1,6}|#x[0-9a-f]{1,5});", _I)
REPEATED_CHARACTERS = re.compile(r"(\S{1,8}?)\1{11,}")
