"""What is known of a list of objects, told in words or shown in a picture, and lists in words."""

from __future__ import annotations

import random
from dataclasses import dataclass

from visualheads.miniatures import language
from visualheads.miniatures.distortions import ADJECTIVES, DISTORTIONS, NONE
from visualheads.miniatures.language import PLACES, RELATIONS
from visualheads.miniatures.world import CATEGORY, COLOURS, Scene, SceneObject, choose_counts

MARKS = 0.6  # share of text lists with a marked object
COLOURED = 0.3  # … that tell each object's colour
DISTORTED = 0.2  # … that tell a distortion, among the fillers
TOLD = (2, 8)  # how often they tell it, at least and at most
TOLD_AT_ONCE = 0.5  # share of fillers that tell it, where places tell all at once
NEAR, ASKEW = 20.0, 0.5  # two objects stand in a relation from this distance (pixels) on, up to this slope


@dataclass(frozen=True)
class Listing:
    """What a question needs to know: one entry an object in reading order, and the marked class, if any.

    colours and centres are None where the list does not tell them; centres are in pixels of a picture of `size`.
    """

    items: tuple[str, ...]
    marked: str | None = None
    colours: tuple[str, ...] | None = None
    centres: tuple[tuple[float, float], ...] | None = None
    size: tuple[int, int] = (0, 0)
    quality: str = NONE
    marked_at: int | None = None  # the index in `items` of the marked object, where it is known

    def count(self, name: str) -> int:
        """How many objects are of the class or supercategory `name`."""
        return sum(name in (item, CATEGORY[item]) for item in self.items)

    @property
    def present(self) -> list[str]:
        """Classes in the list, sorted."""
        return sorted(set(self.items))

    @property
    def alone(self) -> list[str]:
        """Classes with a single object, sorted."""
        return [name for name in self.present if self.items.count(name) == 1]

    def colour(self, name: str) -> str | None:
        """The colour of the only object of a class; None where colours are not told."""
        return self.colours[self.items.index(name)] if self.colours else None

    def place(self, name: str) -> str | None:
        """The quarter of the picture that holds the centre of the only object of a class; None without places."""
        if self.centres is None:
            return None
        x, y = self.centres[self.items.index(name)]
        return PLACES[2 * (y > self.size[1] / 2) + (x > self.size[0] / 2)]

    def relation(self, name: str, other: str) -> str | None:
        """Where `name` lies when seen from `other`; None without places and where two answers are nearly right."""
        if self.centres is None:
            return None
        (x, y), (from_x, from_y) = (self.centres[self.items.index(each)] for each in (name, other))
        right, down = x - from_x, y - from_y
        near, far = sorted((abs(right), abs(down)))
        if far < NEAR or near > ASKEW * far:
            return None
        left_or_right = abs(right) > abs(down)
        return RELATIONS[int(right > 0)] if left_or_right else RELATIONS[2 + int(down > 0)]


def reading_order(scene: Scene, patches: int) -> list[int]:
    """Indices of the objects by the patch row, then the column, of their centres: the order of image tokens.

    `patches`: rows of patches that the picture is cut into.
    """

    def place(index: int) -> tuple[int, float]:
        x, y = scene.objects[index].centre
        return int(y * patches // scene.height), x

    return sorted(range(len(scene.objects)), key=place)


def of_scene(scene: Scene, target: int | None = None, patches: int = 8) -> Listing:
    """All that a picture of the scene shows; `target` is the object in the drawn box."""
    order = reading_order(scene, patches)
    objects: list[SceneObject] = [scene.objects[index] for index in order]
    return Listing(
        tuple(item.name for item in objects),
        None if target is None else scene.objects[target].name,
        tuple(item.colour for item in objects),
        tuple(item.centre for item in objects),
        (scene.width, scene.height),
        scene.quality,
        None if target is None else order.index(target),
    )


def opening() -> list[int]:
    """What stands before the list or the picture: `<s> USER:`."""
    return [language.vocabulary()[language.BOS], *language.encode(language.USER)]


def text_list(
    rng: random.Random,
    fillers: int,
    *,
    plain: bool = False,
    coloured: bool | None = None,
    marks: float = MARKS,
    together: float = 0.0,
) -> tuple[list[int], Listing]:
    """A scene in words: objects among at most `fillers` filler words; in a share `marks` of lists one is marked.

    A share of the lists tells colours (`blue car`; all of them with `coloured`) or, among the fillers, a distortion;
    a `plain` list tells neither. A share `together` of them tells all of a place at once (`words.together`), as the
    patches of a picture do.
    """
    at_once = together > 0 and rng.random() < together
    items = [name for name, count in choose_counts(rng) for _ in range(count)]
    rng.shuffle(items)
    marked = rng.randrange(len(items)) if rng.random() < marks else None
    if coloured is None:
        coloured = not plain and rng.random() < COLOURED
    colours = [rng.choice(list(COLOURS)) for _ in items] if coloured else None
    quality = rng.choice(DISTORTIONS) if not plain and rng.random() < DISTORTED else NONE
    length = rng.randint(0, fillers)
    fillers_told = [[language.FILLER] for _ in range(length)]
    if quality != NONE and at_once:
        for filler in fillers_told:
            if rng.random() < TOLD_AT_ONCE:
                filler.append(ADJECTIVES[quality][0])
    elif quality != NONE:
        for _ in range(rng.randint(*TOLD)):
            fillers_told.insert(rng.randint(0, len(fillers_told)), [ADJECTIVES[quality][0]])
    objects = [[item] for item in items] if colours is None else [[c, i] for c, i in zip(colours, items, strict=True)]
    if marked is not None:
        objects[marked].insert(0, language.MARK)
    places = set(rng.sample(range(len(fillers_told) + len(items)), len(items)))
    between, shown = iter(fillers_told), iter(objects)
    slots = [next(shown if place in places else between) for place in range(len(fillers_told) + len(items))]
    ids = language.vocabulary()
    listing = Listing(
        tuple(items),
        None if marked is None else items[marked],
        tuple(colours) if colours else None,
        quality=quality,
        marked_at=marked,
    )
    if at_once:  # the object's class last in words, first of those told together
        return [language.together([ids[word] for word in reversed(slot)]) for slot in slots], listing
    return [ids[word] for slot in slots for word in slot], listing
