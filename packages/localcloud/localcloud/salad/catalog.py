"""GPU classes, their prices an hour by priority, and country codes.

The id of the RTX 5090 is the real one. The other ids and all prices are examples of the right order of magnitude.
"""

from typing import Any

PRIORITIES = ("high", "medium", "low", "batch")

# GPU class: id, name, and dollars per hour at priority high, medium, low and batch
_CLASSES = (
    ("851399fb-7329-4195-a042-d6514b28cf33", "RTX 5090 (32 GB)", "0.450", "0.370", "0.300", "0.250"),
    ("ed563892-aacd-40f5-80b7-90c9be6c759b", "RTX 4090 (24 GB)", "0.300", "0.240", "0.200", "0.160"),
    ("a5db5c50-cbcb-4596-ae80-6a0c8090d80f", "RTX 3090 (24 GB)", "0.230", "0.170", "0.130", "0.090"),
    ("9998fe42-04a5-4807-b3a5-849943f16c38", "RTX 4080 (16 GB)", "0.220", "0.180", "0.140", "0.110"),
    ("0d062939-7c01-4aae-a2b1-30e315124e51", "RTX 4070 Ti Super (16 GB)", "0.200", "0.160", "0.120", "0.090"),
    ("f51baccc-dc95-40fb-a5d1-6d0ee0db31d2", "RTX 3060 (12 GB)", "0.100", "0.080", "0.060", "0.040"),
)

GPU_CLASSES: list[dict[str, Any]] = [
    {
        "id": identity,
        "name": name,
        "prices": [
            {"priority": rank, "price": price} for rank, price in zip(PRIORITIES, prices, strict=True)
        ],
        "gpu_class_type": "community",
        "is_high_demand": False,
    }
    for identity, name, *prices in _CLASSES
]
# CountryCode in salad-cloud.openapi.yaml
_CODES = (
    "ad ae af ag ai al am ao aq ar as at au aw ax az ba bb bd be bf bg bh bi bj bl bm bn bo bq br bs bt "
    "bv bw by bz ca cc cd cf cg ch ci ck cl cm cn co cr cu cv cw cx cy cz de dj dk dm do dz ec ee eg eh "
    "er es et fi fj fk fm fo fr ga gb gd ge gf gg gh gi gl gm gn gp gq gr gs gt gu gw gy hk hm hn hr ht "
    "hu id ie il im in io iq ir is it je jm jo jp ke kg kh ki km kn kp kr kw ky kz la lb lc li lk lr ls "
    "lt lu lv ly ma mc md me mf mg mh mk ml mm mn mo mp mq mr ms mt mu mv mw mx my mz na nc ne nf ng ni "
    "nl no np nr nu nz om pa pe pf pg ph pk pl pm pn pr ps pt pw py qa re ro rs ru rw sa sb sc sd se sg "
    "sh si sj sk sl sm sn so sr ss st sv sx sy sz tc td tf tg th tj tk tl tm tn to tr tt tv tw tz ua ug "
    "um us uy uz va vc ve vg vi vn vu wf ws ye yt za zm zw "
)
COUNTRIES = frozenset(_CODES.split())
GPU_IDS = frozenset(gpu["id"] for gpu in GPU_CLASSES)


def dollars_an_hour(gpu_ids: list[str], priority: str | None) -> float:
    """The highest price of the given classes at this priority (None: high); 0 without a GPU."""
    rank = PRIORITIES.index(priority) if priority in PRIORITIES else 0
    prices = [float(gpu["prices"][rank]["price"]) for gpu in GPU_CLASSES if gpu["id"] in gpu_ids]
    return max(prices, default=0.0)
