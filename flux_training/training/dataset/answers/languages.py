"""What models say instead of a caption, or after one, in languages other than English: parts of the patterns in `patterns.py`."""

# ruff: noqa: RUF001 - other scripts have letters that look like Latin ones

# Phrases that say that the model cannot see the image or did not receive one.
BLIND = "|".join(
    (
        r"^(?:kein bild|aucune image|nessuna immagine|nenhuma imagem|brak obrazu|geen afbeelding|ingen bild)\b[^,.]{0,40}\W*$|^no se ha proporcionado ninguna imagen",
        r"^(?:没有图片|未提供图片|画像がありません|이미지가 없습니다|изображение не загружено|لا توجد صورة)\W*$",
        r"ich (?:sehe|kann|erkenne|habe)\b[^.!?]{0,30}\bkein(?:e|en)? (?:bild|foto|grafik|anhang)|ich kann (?:das|kein) bild",
        r"je ne (?:vois|peux pas (?:voir|accéder|afficher))|je n'(?:ai pas|arrive pas à)[^.!?]{0,30}\b(?:image|photo)",
        r"no veo (?:ninguna?|la|tu|el) (?:imagen|foto|archivo)|no puedo (?:ver|acceder|visualizar|abrir)",
        r"non (?:vedo|riesco a (?:vedere|visualizzare|accedere)|posso (?:vedere|visualizzare))",
        r"não (?:consigo|posso) (?:ver|visualizar|acessar|abrir|enxergar)|não vejo (?:nenhuma?|a) (?:imagem|foto)",
        r"ik (?:zie|kan) (?:geen|de|het|je|uw)?\b[^.!?]{0,20}\b(?:afbeelding|foto|beeld)|ik zie geen",
        r"nie (?:widzę|mogę (?:zobaczyć|otworzyć|wyświetlić))",
        r"jag (?:kan inte|ser ing\w+|ser inte)[^.!?]{0,20}\b(?:bild|foto)|jeg (?:kan ikke|ser (?:ikke|ingen|intet))[^.!?]{0,20}\b(?:bilde|billede|foto)",
        r"en (?:näe|voi nähdä)|nevidím|nemohu (?:zobrazit|vidět)|nem lát(?:om|ok)|nu (?:văd|pot vedea)",
        r"gör(?:emiyorum|üntüleyemiyorum)|saya tidak (?:dapat|bisa) melihat|tôi không (?:thấy|thể (?:xem|thấy))",
        r"не (?:вижу|могу (?:увидеть|видеть|просмотреть|открыть))|не (?:бачу|можу (?:побачити|бачити|переглянути))|δεν (?:βλέπω|μπορώ να δω)",
        r"看不到|看不见|没有看到|沒有看到|(?:无法|無法|不能)(?:查看|看到|看见|显示|访问|打开)|请上传|請上傳",
        r"画像[がを](?:見え|見る|見られ|添付|確認でき|表示でき)|이미지를? ?(?:볼 수 없|확인할 수 없|보이지 않)",
        r"لا (?:أستطيع|أرى|يمكنني)[^.!؟]{0,10}(?:رؤية|صورة|الصورة)|नहीं देख (?:सकता|सकती|पा)|ไม่(?:เห็น|สามารถ(?:ดู|มองเห็น))|לא (?:רואה|יכול לראות)",
    )
)

# "Caption", "description", "image description" before a colon.
LABELS = "|".join(
    (
        r"(?:image|photo) description|légende de l'image|description de l'image|descripción|pie de foto|descrizione|didascalia|descrição|beschrijving|bijschrift|onderschrift",
        r"opis|podpis|popis|popisek|titulek|bildtext|beskrivning|beskrivelse|billedtekst|bildetekst|kuvateksti|kuvaus|képaláírás|leírás|descriere|açıklama|altyazı|keterangan|deskripsi|mô tả|chú thích",
        r"подпись|описание|опис|підпис|περιγραφή|λεζάντα|描述|说明|說明|标题|標題|説明|설명|캡션|وصف|الوصف|تعليق|विवरण|कैप्शन|คำบรรยาย|คำอธิบาย|תיאור|כיתוב",
    )
)

# Refusals at the beginning of an answer.
REFUSAL = "|".join(
    (
        # "I" followed by a verb that says that something is impossible, not allowed or not wanted.
        r"(?:ich|yo|io|eu|ik|jag|jeg|minä|já|én|saya|tôi|я) |je (?:ne|suis|vais|dois|regrette)\b|j'ai\b|(?:no|non|não|nie|nu) (?:mi è|me es|ho|he|posso|puedo|pot|tengo|tenho|mogę|mam|wolno|se puede|si può)\b",
        r"(?:我|私|저는|제가|أنا|मैं)|.{0,30}(?:수 없습니다|수 없어요|できません|不被允许|不允许)",
        r"es tut mir (?:sehr )?leid|tut mir leid|entschuldigung|leider (?:kann|ist|darf)|ich kann (?:ihnen |dir )?(?:dabei|das|diese)",
        r"je suis désolée?|désolée?,|malheureusement|je ne peux pas|lo siento|lamentablemente|no puedo|mi dispiace|purtroppo|non posso",
        r"desculpe|lamento|infelizmente|não posso|helaas|het spijt me|sorry,? maar|przepraszam|niestety|przykro mi",
        r"(?:jag är |jeg er )?(?:ledsen|lei for|ked af)|tyvärr|beklager|desværre|valitettavasti|bohužel|omlouvám|sajnos|sajnálom|îmi pare rău",
        r"üzgünüm|maalesef|maaf|xin lỗi|rất tiếc|извините|простите|к сожалению|вибачте|на жаль|λυπάμαι|δυστυχώς",
        r"抱歉|很抱歉|对不起|對不起|我无法|我無法|我不能|申し訳|すみません|ごめん|죄송|미안",
        r"آسف|عذر|أعتذر|لا أستطيع|क्षमा|माफ़|ขออภัย|ขอโทษ|מצטער|סליחה",
    )
)

# Reasoning about what "the user" wants.
REASONING = "|".join(
    (
        r"\bder (?:benutzer|nutzer|anwender) (?:möchte|will|wünscht|fragt|bittet|hat)\b|\bl'utilisat(?:eur|rice) (?:souhaite|veut|demande|a )",
        r"\bel usuario (?:quiere|pide|solicita|desea|ha )|\bo usuário (?:quer|pede|deseja|solicita)|\bl'utente (?:vuole|chiede|desidera|ha )",
        r"пользователь (?:хочет|просит|прислал)|用户(?:想|要|希望|需要|让|请|提供|上传)|使用者(?:想|要|希望|需要)|ユーザー(?:は|が)|사용자(?:가|는)",
    )
)

# Text addressed to the user: requests for an image, and statements of the model about itself.
SPEAKING = "|".join(
    (
        r"^bitte\b|\b(?:ki|ai|sprach)-?modell\b|^veuillez\b|\bs'il vous plaît\b|\bmodèle de langage\b|\b(?:por|per) favore?\b|\b(?:modelo|modello) (?:de lenguaje|de linguagem|linguistico)\b",
        r"\bbild(?:er)? (?:wurde|konnte|kann|ist) (?:leider )?nicht\b|\bimage n'(?:est|a) pas\b|\bimagen no (?:se|está|fue)\b|\bimmagine non (?:è|può)\b|\bimagem não\b",
        r"^пожалуйста\b|\bязыковая модель\b|^proszę\b|\bmodel(?:em)? językow\w+|^lütfen\b|\bdil modeli\b|^silakan\b|\bvui lòng\b|\balstublieft\b|\btaalmodel\b",
        r"\b(?:richtlinien|directrices|directives|linee guida|diretrizes|richtlijnen|wytyczn\w+|riktlinjer|правил\w+)\b|[无無]法(?:描述|生成|提供|处理|識別|识别)|准则|ガイドライン|お答えでき",
        r"^(?:你好|您好|好的)[！!，,。]|请提供|^请|^請|(?:图片|图像|圖片)(?:无法|無法|不)|语言模型|語言模型|ください|言語モデル|(?:できません|できかねます|いたしかねます)|해 ?주세요|언어 모델|กรุณา|कृपया|يرجى|من فضلك|בבקשה",
    )
)

# Remarks and offers after a caption.
CLOSING = "|".join(
    (
        r"ich hoffe,? |lass(?:en sie)? (?:es )?mich wissen|sag(?:en sie)? mir|gib mir bescheid|falls (?:du|sie)|wenn (?:du|sie) (?:möchte|willst|etwas)",
        r"j'espère |je peux |posso |puedo |n'hésitez pas|faites-moi savoir|dites-moi|si vous (?:souhaitez|voulez)|(?:souhaitez|voulez)-vous|möchten sie|möchtest du|¿?(?:quieres|deseas?|te gustaría)|vuoi |gostaria|wil je|espero que|avísame|déjame saber|hazme saber|si (?:quieres|necesitas|desea)",
        r"fammi sapere|fatemi sapere|spero che|se (?:vuoi|desideri)|avise-me|me avise|se (?:quiser|precisar)|laat (?:het )?me weten|daj(?:cie)? mi znać|mam nadzieję",
        r"låt mig veta|la meg vite|lad mig vide|bana bildirin|umarım|дайте (?:мне )?знать|надеюсь|если (?:вам|вы|хотите|нужно)|сообщите",
        r"如果(?:您|你|需要)|如需|希望(?:这|這|对|對)|请告诉我|請告訴我|必要であれば|ご希望|お知らせください|알려 ?주세요|원하시면|도움이 (?:되|필요)",
    )
)
