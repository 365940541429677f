"""Whether a caption is in English, told from the words that captions have in each language. Pure."""

import re
from collections import Counter
from functools import cache

# ruff: noqa: RUF001 - other scripts have letters that look like Latin ones

# The first Greek letter. The other scripts that are not Latin come after it in Unicode.
FIRST_NON_LATIN = "\u0370"
# A text with at least this many words of another language, and more than twice as many as English ones, is in that language.
MIN_FOREIGN = 2
# Without any word of a language, so many words with accents, and more than half of all, show that a text is not English.
MIN_ACCENTED = 3
# A capitalised word of at most this many letters within a sentence is a part of a name: "Los Angeles".
MAX_LETTERS_IN_NAMES = 3
# Small words of each language, and the words for people, animals and actions that are frequent in captions. Words that are also
# English, such as "on" and "man", are no evidence.
_WORDS = {
    "de": """der die das den dem des ein eine einen einem einer eines und oder mit von vom zum zur im am auf aus bei beim vor nach über unter neben
        zwischen hinter durch für ist sind wird werden sich er sie es ihr ihre sein seine zwei drei vier mann frau kind junge mädchen hund katze
        sitzt steht liegt läuft hält trägt spielt schaut geht person menschen leute blick nach oben
        jungen kinder männer frauen paar gruppe gegen sitzen stehen tragen spielen
        alte alter altes junger junges kleine kleiner kleines große großer großes rote roter weiße weißer schwarze schwarzer blaue blauer""",
    "fr": """le la les un une des du de et ou avec dans sur sous au aux en par pour devant derrière près est sont qui que se son sa ses leur
        deux trois quatre homme femme enfant garçon fille chien chat assis assise debout porte tient regarde marche joue gens personne ciel
        contre hommes femmes enfants personnes plusieurs jeunes groupe
        vieux vieille petit petite grand rouge blanc blanche noire bleu bleue vert verte""",
    "es": """el la los las un una unos unas del de y o con en sobre bajo por para junto al detrás está están es son que se su sus dos tres
        cuatro hombre mujer niño niña perro gato sentado sentada mira lleva sostiene camina juega gente persona cielo arriba
        contra hacia hombres mujeres niños personas grupo joven
        viejo vieja pequeño pequeña rojo roja blanco blanca negro negra azul verde anciano""",
    "pt": """o os um uma uns umas do da dos das de e ou com em no na nos nas sobre sob por para ao à pelo pela atrás está estão é são que se seu sua
        dois duas três homem mulher menino menina criança cachorro gato cão sentado sentada olha olhando segura segurando pessoa pessoas cima céu
        homens mulheres crianças grupo jovem
        velho velha pequeno pequena vermelho vermelha branco branca preto preta azul verde idoso""",
    "it": """il lo la gli le un uno una dei delle del della dello di e o con nel nella sul sulla su per al alla dal davanti dietro è sono che si
        suo sua due tre uomo donna bambino bambina ragazzo ragazza cane gatto seduto seduta guarda tiene cammina gioca persone cielo
        contro verso uomini donne bambini ragazzi gruppo giovane
        vecchio vecchia piccolo piccola rosso rossa bianco bianca nero nera""",
    "nl": """de het een en of met van in op aan uit bij voor naar door onder naast tussen achter is zijn wordt die dat zich haar hun twee drie
        vier vrouw jongen meisje kind hond kat zit zittend staat staand ligt loopt rent kijkt draagt speelt mensen persoon lucht omhoog
        tegen mannen vrouwen kinderen jongens zitten staan groep
        oude jonge kleine grote rode witte zwarte blauwe""",
    "sv": """en ett den det de och eller med av på i till från under bredvid bakom framför vid som är har sin sitt sina hans hennes två tre
        fyra kvinna pojke flicka barn hund katt sitter står ligger går springer tittar bär håller leker människor person upp mot
        kvinnor pojkar flickor katten hunden mannen kvinnan sitta
        gammal gammalt ung liten litet stor stort röd rött vit vitt svart blå blått""",
    "da": """en et den det de og eller med af på i til fra under ved bag foran som er har sin sit sine hans hendes to tre fire mand kvinde dreng pige
        barn hund kat sidder står ligger går løber kigger ser bærer holder leger mennesker op mod
        mænd kvinder børn drenge katten hunden manden kvinden gruppe
        gammel gammelt ung lille stor stort rød rødt hvid hvidt sort blå blåt""",
    "no": """en ei et den det de og eller med av på i til fra under ved bak foran som er har sin sitt sine hans hennes to tre fire mann kvinne gutt jente
        barn hund katt sitter står ligger går løper ser bærer holder leker mennesker opp mot
        menn kvinner gutter jenter katten hunden mannen kvinnen gruppe
        gammel gammelt ung liten lite stor stort rød rødt hvit hvitt svart blå blått""",
    "fi": """ja tai joka on ovat sekä kanssa päällä alla vieressä edessä takana kaksi kolme mies nainen poika tyttö lapsi koira kissa istuu seisoo
        makaa kävelee juoksee katsoo pitää leikkii ihmiset ihmisiä ylös taivas taustalla valkoinen musta punainen
        miehet naiset lapset joukko sohvalla istuva seisova
        vanha nuori pieni iso sininen sinistä punaista valkoista ruskea keltainen oranssi""",
    "pl": """i w we z ze na do od po pod nad przed za przy obok między jest są się który która które jego jej ich dwa dwie dwóch dwoje trzy mężczyzna
        kobieta chłopiec dziewczyna dziewczynka dziecko pies kot siedzi siedzący siedząca stoi leży idzie biegnie patrzy trzyma bawi ludzie osoba górę niebo tle
        mężczyźni kobiety dzieci grupa kota psa
        stary stara stare młody młoda mały mała duży duża czerwony czerwona biały biała czarny czarna niebieski niebieską""",
    "cs": """a i v ve z ze na do od po pod nad před za při u vedle mezi je jsou se si s který která které jeho její dva dvě tři muž žena chlapec dívka
        dítě děti pes kočka kocour sedí stojí leží jde běží dívá drží hraje lidé muži ženy osoba nahoru nebe pozadí
        skupina lidí dětí mladý mladá chlapci jsem má přes
        starý stará staré malý malá velký velká červený červená bílý bílá černý černá modrý modrou""",
    "ro": """un o unui unei și sau cu în din pe de la spre sub lângă între peste este sunt care se cu lui ei doi două trei bărbat femeie băiat fată copil
        câine pisică stă șade merge aleargă privește ține poartă oameni sus cer fundal
        bărbați femei copii grup tânăr stând
        bătrân bătrână mic mică roșu roșie alb albă negru albastru""",
    "hu": """a az egy és vagy hogy van vannak mellett alatt felett előtt mögött között két három férfi nő fiú lány gyerek kutya macska ül áll fekszik
        megy fut néz felnéz nézi tart visel játszik emberek ember ég felfelé háttérben fehér fekete piros
        férfiak nők gyerekek csoport fiatal ülő álló
        öreg kis kicsi nagy kék zöld sárga""",
    "tr": """bir ve veya ile için olan üzerinde üstünde altında yanında önünde arkasında içinde iki üç adam kadın erkek kız çocuk köpek kedi oturan
        oturuyor duran duruyor yatıyor yürüyor koşuyor bakıyor bakan tutuyor tutan oynuyor insanlar kişi yukarı gökyüzü
        adamlar kadınlar çocuklar grup genç kanepede gökyüzüne
        yaşlı küçük büyük kırmızı beyaz siyah mavi turuncu sarı""",
    "id": """yang dan atau di ke dari dengan untuk pada oleh sedang seorang seekor sebuah dua tiga pria wanita perempuan laki-laki anak anjing kucing
        duduk berdiri berbaring berjalan berlari melihat memegang memakai bermain orang atas bawah langit
        sekelompok anak-anak muda oranye putih hitam
        tua kecil besar merah biru kuning hijau""",
    "vi": """một các những và với trên dưới trong bên cạnh sau trước đang là của có người đàn ông phụ nữ cô gái bé chó mèo con ngồi đứng nằm đi
        chạy nhìn cầm mặc chơi lên hai ba chiếc bầu trời
        nhóm trẻ em trắng đen đỏ màu
        ông bà lão già trẻ nhỏ xanh vàng cam""",
}
_ENGLISH = """the of at with and from into onto near his its their she they are has have being who which that this behind beside against between through while
    down up out off front next top women men's boy girl kid dog cat two three one four some several young old little large small big white black red
    blue green yellow brown grey gray pink orange purple sitting standing walking running holding wearing looking playing picture shot view close-up
    closeup background foreground light lit soft sky water street woman people wall table"""
# Words that are no evidence, because English and another language have them.
_SHARED = """a an all are art as bar barn be by die do er fat fire for has hang hat he her i in is it kind las los man men no on over par person pies rein sit son to top
    under up van via vid was bug"""
_WORD = re.compile(r"[^\W\d_]+(?:[-'][^\W\d_]+)*")
# What stands in the picture is in any language.
_QUOTED = re.compile(r"\"[^\"\n]*\"|“[^”\n]*”|«[^»\n]*»|„[^“”\n]*[“”]|(?<!\w)'[^'\n]{3,}'(?!\w)")


@cache
def _english_words() -> frozenset[str]:
    return frozenset(_ENGLISH.split())


@cache
def _words_of_languages() -> dict[str, list[str]]:
    """The languages of each word. Made on first use: most commands judge no caption."""
    languages: dict[str, list[str]] = {}
    no_evidence = {*_english_words(), *_SHARED.split()}
    for language, words in _WORDS.items():
        for word in set(words.split()) - no_evidence:
            languages.setdefault(word, []).append(language)
    return languages


def is_in_another_language(text: str) -> bool:
    """Whether a text is not English: in another script, or with more words that only other languages have."""
    unquoted = _QUOTED.sub(" ", text.replace("\u2019", "'"))
    letters = [letter for letter in unquoted if letter.isalpha()]
    if 2 * sum(letter >= FIRST_NON_LATIN for letter in letters) > len(letters):
        return True
    words = _words_that_count(unquoted)
    english = sum(word in _english_words() for word in words)
    return _count_foreign(words) >= max(MIN_FOREIGN, 2 * english + 1)


def is_in_english(text: str) -> bool:
    """Whether a text has words that only English has, and is not in another language."""
    has_english = any(word in _english_words() for word in _words_that_count(text))
    return has_english and not is_in_another_language(text)


def _words_that_count(text: str) -> list[str]:
    """The words of a text in small letters, without the small words of names such as "Los Angeles"."""
    words = []
    for found in _WORD.finditer(text):
        word, before = found[0], text[: found.start()].rstrip()
        begins = len(word) > 1 and (not before or before[-1] in ".!?:\n")
        if begins or word[0].islower() or len(word) > MAX_LETTERS_IN_NAMES:
            words.append(word.lower())
    return words


def _count_foreign(words: list[str]) -> int:
    """How many words are of the language that most of them belong to, or have accents. Accents alone may be those of a dish or a place."""
    languages = _words_of_languages()
    counts = Counter(language for word in words for language in languages.get(word, ()))
    accented = sum(not word.isascii() and word not in languages for word in words)
    is_accented = accented >= MIN_ACCENTED and 2 * accented > len(words)
    return max(counts.values(), default=0) + (accented if counts or is_accented else 0)
