"""Vocabulary of the synthetic reviews: aspects by domain, opinions by degree, and sentence templates."""

from __future__ import annotations

import hashlib

N_LEVELS = 5

# A noun that ends in "s" is plural.
SHARED_ASPECTS: dict[str, tuple[str, ...]] = {
    "value": ("price", "value for the money", "cost", "deal"),
    "durability": ("durability", "workmanship", "quality of the material", "longevity"),
    "delivery": ("delivery", "shipping", "packaging", "service of the seller"),
}
_OWN_ASPECTS: dict[str, dict[str, tuple[str, ...]]] = {
    "electronics": {
        "battery": ("battery", "battery life", "charging time", "power supply"),
        "screen": ("screen", "display", "picture", "touch surface"),
        "sound": ("sound", "audio", "speaker", "volume"),
        "setup": ("setup", "installation", "manual", "menus"),
    },
    "movies_tv": {
        "plot": ("plot", "storyline", "script", "twists"),
        "acting": ("acting", "cast", "leading actor", "dialogues"),
        "pictures": ("cinematography", "camera work", "special effects", "scenery"),
        "music": ("soundtrack", "score", "music", "sound mix"),
    },
    "video_games": {
        "graphics": ("graphics", "visuals", "animation", "art style"),
        "gameplay": ("gameplay", "combat", "level design", "missions"),
        "story": ("story", "campaign", "characters", "writing"),
        "controls": ("controls", "camera", "button layout", "handling"),
    },
    "books": {
        "plot": ("plot", "storyline", "pacing", "ending"),
        "style": ("prose", "writing style", "language", "narration"),
        "characters": ("characters", "heroine", "villain", "dialogues"),
        "print": ("binding", "print", "paper", "illustrations"),
    },
    "musical_instruments": {
        "tone": ("tone", "sound", "sustain", "overtones"),
        "tuning": ("tuning", "intonation", "tuners", "pitch stability"),
        "feel": ("feel", "neck", "playability", "action of the strings"),
        "noise": ("signal path", "wiring", "connectors", "noise floor"),
    },
    "digital_music": {
        "vocals": ("vocals", "singing", "voice", "harmonies"),
        "melody": ("melodies", "songwriting", "hooks", "arrangement"),
        "lyrics": ("lyrics", "words", "themes", "storytelling"),
        "production": ("production", "mix", "mastering", "bass line"),
    },
    "toys_games": {
        "fun": ("fun", "replay value", "entertainment", "surprises"),
        "rules": ("rules", "instructions", "explanations", "rule book"),
        "pieces": ("pieces", "figures", "cards", "paint"),
        "safety": ("safety", "edges", "finish", "small parts"),
    },
    "home_kitchen": {
        "cleaning": ("cleaning", "upkeep", "non-stick surface", "filters"),
        "noise": ("motor", "noise level", "fan", "hum"),
        "size": ("size", "capacity", "footprint", "dimensions"),
        "design": ("design", "looks", "color", "handles"),
    },
}
_GENERIC_ASPECTS: dict[str, tuple[str, ...]] = {
    "design": ("design", "looks", "color", "styling"),
    "comfort": ("comfort", "fit", "ergonomics", "feel"),
    "performance": ("performance", "speed", "output", "results"),
    "instructions": ("instructions", "manual", "documentation", "explanations"),
    "size": ("size", "dimensions", "capacity", "proportions"),
    "smell": ("smell", "scent", "odor", "freshness"),
    "accessories": ("accessories", "extras", "spare parts", "add-ons"),
    "safety": ("safety", "stability", "grip", "edges"),
}

# One tuple per degree, from worst to best, without common words.
OPINIONS = (
    ("awful", "terrible", "a disaster", "horrible", "useless", "dreadful", "unacceptable", "pathetic"),
    ("disappointing", "weak", "below average", "mediocre", "lacking", "underwhelming", "poor", "annoying"),
    ("okay", "average", "acceptable", "passable", "nothing special", "decent enough", "middling", "so-so"),
    ("good", "solid", "pleasing", "better than expected", "convincing", "nice", "well done", "likable"),
    ("superb", "excellent", "outstanding", "perfect", "amazing", "fantastic", "first class", "brilliant"),
)
_TEMPLATES = (
    "The {noun} {verb} {opinion}.",
    "I found the {noun} {opinion}.",
    "For me the {noun} {verb} {opinion}.",
    "As for the {noun}, simply {opinion}.",
    "The {noun} turned out {opinion}.",
    "My family calls the {noun} {opinion}.",
    "Compared with others of its kind, the {noun} {verb} {opinion}.",
    "What stays in mind: the {noun}, which {verb} {opinion}.",
)
FILLERS = (
    "I bought this last month.",
    "It was a gift for my brother.",
    "I had read many reviews before.",
    "My old one had to be replaced after years.",
    "We use it nearly every weekend.",
    "A friend told me about it.",
    "I waited a while before writing this.",
    "This is my second one.",
    "I am no expert at all.",
    "The kids were curious about it, too.",
    "It came on a Tuesday.",
    "I have had it for six weeks now.",
    "My neighbor owns the same.",
    "I usually do not write reviews.",
    "There are many like it around.",
    "I compared it with three others.",
    "It sits in the living room now.",
    "Your mileage may vary, of course.",
    "I will update this review later if anything changes.",
    "Maybe this helps somebody to decide.",
)
OVERALL = (
    ("One star from me.", "I regret it.", "Stay away from it.", "It goes back."),
    ("Two stars at most.", "I would not get it again.", "Look elsewhere first.", "I expected more."),
    ("Three stars.", "It does what it should, no more.", "I am in two minds.", "One can live with it."),
    ("Four stars.", "I would get it again.", "I am happy with it overall.", "Small flaws aside, I like it."),
    ("Five stars.", "I recommend it to everyone.", "I love it.", "I could not be happier."),
)
SHORT = (
    ("Bad!", "Do not buy.", "Junk."),
    ("Meh.", "Not for me.", "Weak."),
    ("It's ok.", "Average.", "Fine."),
    ("Good.", "Nice!", "I like it."),
    ("Great!", "Love it!", "Five stars"),
)


def aspects_of(domain: str) -> dict[str, tuple[str, ...]]:
    """Aspect -> its nouns: three shared ones, then four of the domain. Unknown domains get generic aspects by name."""
    own = _OWN_ASPECTS.get(domain)
    if own is None:
        names = sorted(_GENERIC_ASPECTS, key=lambda name: hashlib.sha256(f"{domain}/{name}".encode()).digest())[:4]
        own = {name: _GENERIC_ASPECTS[name] for name in names}
    return SHARED_ASPECTS | own


def sentences(nouns: tuple[str, ...], level: int) -> list[str]:
    """All sentences with an opinion of degree `level` on an aspect with these nouns."""
    return [
        template.format(noun=noun, verb="are" if noun.endswith("s") else "is", opinion=opinion)
        for template in _TEMPLATES
        for noun in nouns
        for opinion in OPINIONS[level]
    ]
