"""How the benchmarks' questions are put into words: one entry a kind of question, one or two sentences each."""

from __future__ import annotations

WORDINGS: dict[str, tuple[str, ...]] = {
    "general": ("How many of these are there?",),
    "name": ("What is the object in the rectangle?",),
    "object": ("How many {plural} are there?",),
    "super": ("How many of these {category} are there?",),
    "number": ("How many {plural} are in the image?", "How many {plural} can be seen in the picture?"),
    "exists": ("Is there {article} {name} in the image?",),
    "which": ("Which of the following objects can be seen in the image?", "Which object is in the picture?"),
    "colour": ("What is the colour of the {name}?", "What color is the {name}?"),
    "location": ("Where is the {name} located in the image?", "In which part of the picture is the {name}?"),
    "relation": (
        "Where is the {name} when seen from the {other}?",
        "What is the position of the {name} relative to the {other}?",
    ),
    "distortion": (
        "Which distortion problem does the image have?",
        "What is the main distortion of this picture?",
    ),
    "quality": ("Is this image {adjective}?", "Is this picture {adjective}?"),
    "appearance": ("How {adjective} is this image?", "How {adjective} is this picture?"),
}
LOOKTWICE = ("general", "object", "super")
PLACES = ("top left", "top right", "bottom left", "bottom right")
RELATIONS = ("left", "right", "above", "below")

LIST_REQUEST = "List the objects."
COLOUR_REQUEST = "List the objects with their colours."
TALLY_REQUEST = "Count the objects."
PLACE_REQUEST = "Where are the objects located?"
THESE = "these"  # in a tally: the class of the marked object
# A tally asks in three steps from a bare word to nearly a whole question: (class, supercategory, the marked class).
TALLY_STYLES = (
    ("{name}", "{category}", THESE),
    ("{plural} ?", "{category} ?", f"{THESE} ?"),
    ("How many {plural} ?", "How many of these {category} ?", f"How many of {THESE} ?"),
)
