"""A caption in another language than English is noticed, and the name of a dish or a place is not taken for one."""

import pytest

from flux_training.training.dataset.caption_language import is_in_another_language
from flux_training.training.dataset.captions import ModelResponse, caption_from

# ruff: noqa: RUF001 - other scripts have letters that look like Latin ones

OTHERS = (
    *("Um gato laranja olha para cima.", "Duas crianças brincam na praia.", "Pessoa segurando um guarda-chuva."),
    *("Rudy kot patrzy w górę.", "Kobieta w żółtym płaszczu stoi na molo.", "Stary rower oparty o ceglaną ścianę."),
    *("En orange katt tittar upp.", "En kvinna i gul regnjacka på en brygga.", "Ett hus vid sjön."),
    *("Een rode kat kijkt omhoog.", "Een vrouw staat op een houten pier.", "Oude fiets tegen een bakstenen muur."),
    *("Un gatto rosso guarda in alto.", "Donna con impermeabile giallo su un molo.", "Un tramonto sul mare."),
    *("Zrzavá kočka se dívá nahoru.", "Staré kolo opřené o cihlovou zeď.", "Kovářka okovává koně."),
    *("Turuncu bir kedi yukarı bakıyor.", "İskelede duran sarı yağmurluklu bir kadın."),
    *("Punainen kissa katsoo ylös.", "Keltaiseen sadetakkiin pukeutunut nainen seisoo laiturilla."),
    *("Vanha kalastaja korjaa sinistä verkkoa.", "Nelayan tua memperbaiki jaring biru.", "Ông lão đánh cá vá lưới."),
    *("Altes Fahrrad an einer Backsteinmauer.", "Vecchia bicicletta appoggiata a un muro."),
    *("En orange kat kigger op.", "En kvinde i en gul regnfrakke på en mole."),
    *("En oransje katt ser opp.", "En gammel sykkel lent mot en murvegg."),
    *("O pisică portocalie se uită în sus.", "O femeie în pelerină galbenă stă pe un dig."),
    *("Egy vörös macska felnéz.", "Sárga esőkabátos nő áll a mólón."),
    *("Seekor kucing oranye melihat ke atas.", "Seorang wanita dengan jas hujan kuning di dermaga."),
    *("Một con mèo màu cam nhìn lên.", "Một người phụ nữ mặc áo mưa vàng đứng trên cầu tàu."),
    *("Un chat roux lève les yeux.", "Chat sur un canapé.", "Vélo appuyé contre un mur de briques."),
    *("Un gato naranja mira hacia arriba.", "Mujer con impermeable amarillo.", "Bicicleta apoyada en una pared."),
    *("Rote Katze schaut nach oben.", "Frau im gelben Regenmantel auf einem Steg.", "Katze im Schnee"),
    "Barista gießt Milch in einen Becher.",
    *("Рыжий кот смотрит вверх.", "一只橘猫抬头看。", "オレンジ色の猫。", "주황색 고양이.", "قطة برتقالية."),
)  # fmt: skip
ENGLISH = (
    *("a plate of pão de queijo", "Café de Flore at night", "crème brûlée, overhead shot"),
    *("A bowl of phở and a plate of bánh mì on a wooden table", "smörgåsbord with köttbullar and lingonberries"),
    *("Los Angeles skyline, Las Vegas strip", "La Boqueria market, Barcelona", "Rue de Rivoli in the rain"),
    *("El Capitan at dawn, Yosemite", "Pont Neuf and the Île de la Cité at dusk", "São Paulo street at night"),
    *("Vincent van Gogh style sunflowers", "a bottle of Château d'Yquem beside foie gras", "coq au vin in a pot"),
    *('A man in a sombrero plays "La Cucaracha" for the crowd', 'A mural that says "Viva la vida y la libertad".'),
    *("Ohwx, portrait, soft window light", "macro shot, bokeh", "a barn, a fire pit and a van", "U.S. 101"),
    *("Dia de los Muertos altar with marigolds", "Tag der Arbeit parade in Berlin", "pho, bun cha, banh mi"),
    *("A bowl of ramen, chāshū and a soft egg.", "Plaza de Armas, Cusco, at blue hour.", "a glass of vino rosso"),
)  # fmt: skip


@pytest.mark.parametrize("text", OTHERS)
def test_a_caption_in_another_language_is_noticed(text: str) -> None:
    assert is_in_another_language(text)
    assert caption_from(ModelResponse(text, "stop")).is_foreign


@pytest.mark.parametrize("text", ENGLISH)
def test_the_name_of_a_dish_or_a_place_is_not_taken_for_another_language(text: str) -> None:
    assert not is_in_another_language(text)
