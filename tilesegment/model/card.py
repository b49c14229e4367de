"""The card: everything prediction must know about a model, carried in the model's own file."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from tilesegment.errors import ModelError
from tilesegment.settings import REGULARIZE, nearest

CARD_VERSION = 1
# Bytes a pixel of one forward pass at its peak, where a card does not state it: measured for
# DeepLabV3+/ResNet-101 and U-Net/ResNet-34 in torch fp32 and rounded up.
DEFAULT_ACTIVATION_BYTES = 1200

# What the class is called that objects lie on, or that says nothing.
BACKGROUND_NAMES = frozenset({"background", "unlabeled", "unlabelled", "void", "ignore"})
# What the class of buildings is called.
BUILDING_NAMES = frozenset(
    {"building", "buildings", "roof", "roofs", "rooftop", "rooftops", "house", "houses", "footprint"}
)
# Of ImageNet's pictures in 0..1, which most published weights were trained with.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ModelClass:
    """One class: its name and its colour (red, green, blue)."""

    name: str
    colour: tuple[int, int, int]


@dataclass(frozen=True)
class Card:
    """A model's description.

    architecture, encoder: names of segmentation-models-pytorch. classes: in order of the network's
    channels; the first is the background where its name says so. bands: names of the input bands. dtype,
    value_range: of the pixels it was trained on. mean, std: per band, after the range was mapped to 0..1.
    gsd: metres a pixel it was trained for, None for pictures. image_size: (rows, columns) for pictures.
    regularize: how polygons of the one class besides the background are drawn, as `--regularize` says it;
    None: at right angles where the class is one of buildings, else as they are. contact: the network has
    one more channel after the classes, the logit of lying between two buildings that touch or nearly do.
    tile: (rows, columns), overlap: pixels, threshold: least probability of a two-class model's class 1.
    probabilities: the network gives these, and no logits. temperature: what logits are divided by, so that
    probabilities mean what they say. activation_bytes: peak memory of a forward pass, a pixel. options:
    further arguments of the architecture. data, credits, metrics: where it comes from. looks: of the
    pictures it learnt from, see `model.look`.
    """

    name: str
    architecture: str
    encoder: str
    classes: tuple[ModelClass, ...]
    bands: tuple[str, ...] = ("red", "green", "blue")
    dtype: str = "uint8"
    value_range: tuple[float, float] = (0.0, 255.0)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    gsd: float | None = None
    image_size: tuple[int, int] | None = None
    regularize: str | None = None
    contact: bool = False
    tile: tuple[int, int] = (512, 512)
    overlap: int = 64
    threshold: float = 0.5
    temperature: float = 1.0
    probabilities: bool = False
    activation_bytes: int = DEFAULT_ACTIVATION_BYTES
    options: dict[str, Any] = field(default_factory=dict)
    license: str = ""
    data: tuple[str, ...] = ()
    credits: tuple[str, ...] = ()
    metrics: dict[str, Any] = field(default_factory=dict)
    looks: dict[str, tuple[float, float]] = field(default_factory=dict)
    version: int = CARD_VERSION

    def __post_init__(self) -> None:
        bands = len(self.bands)
        if len(self.mean) != bands or len(self.std) != bands:
            raise ModelError(
                f"card of {self.name!r}: {bands} bands, but {len(self.mean)} means and "
                f"{len(self.std)} standard deviations"
            )
        if len(self.classes) < 1:
            raise ModelError(f"card of {self.name!r}: no classes")
        if not self.value_range[0] < self.value_range[1] or min(self.std) <= 0:
            raise ModelError(f"card of {self.name!r}: the value range or a standard deviation is empty")
        if self.regularize not in (None, *REGULARIZE[1:]):
            known = ", ".join(REGULARIZE[1:])
            raise ModelError(f"card of {self.name!r}: regularize {self.regularize!r} is none of {known}")
        if not self.temperature > 0:
            raise ModelError(f"card of {self.name!r}: temperature {self.temperature} is not above 0")
        if not 0 < self.threshold < 1:
            raise ModelError(f"card of {self.name!r}: threshold {self.threshold} is not between 0 and 1")

    @property
    def outputs(self) -> int:
        """Channels of the network: the classes first."""
        return len(self.classes) + self.contact

    @property
    def is_binary(self) -> bool:
        """Background against one class: predicted and blended as one channel."""
        return len(self.classes) <= 2

    @property
    def channels(self) -> int:
        """Probability channels that are blended."""
        return 1 if self.is_binary else len(self.classes)

    @property
    def labels(self) -> dict[int, ModelClass]:
        """The classes of the mask by their value; a one-channel network's single class is 1."""
        if len(self.classes) == 1:
            return {0: ModelClass("background", (0, 0, 0)), 1: self.classes[0]}
        return dict(enumerate(self.classes))

    @property
    def drawn(self) -> str:
        """How polygons are drawn where nobody says: see `regularize`."""
        if len(self.foreground) != 1:
            return "none"
        built = self.labels[self.foreground[0]].name.lower() in BUILDING_NAMES
        return self.regularize or ("right" if built else "none")

    @property
    def foreground(self) -> tuple[int, ...]:
        """Values that become polygons: all but a background."""
        return tuple(v for v, c in self.labels.items() if c.name.lower() not in BACKGROUND_NAMES)

    def to_json(self) -> str:
        """As `from_json` reads it."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str, where: str) -> Card:
        """Read a card; `where` names its file in messages.

        Raises ModelError where it is no card of this version.
        """
        try:
            raw = json.loads(text)
            version = raw.get("version")
            if version != CARD_VERSION:
                raise ModelError(f"{where}: card version {version}, this program reads {CARD_VERSION}")
            known = {f.name for f in dataclasses.fields(cls)}
            for key in raw:
                if key not in known:
                    raise ModelError(f"{where}: unknown card key {key!r}{nearest(key, known)}")
            raw["classes"] = tuple(
                ModelClass(str(item["name"]), _colour(item["colour"])) for item in raw["classes"]
            )
            raw["looks"] = {name: (float(m), float(s)) for name, (m, s) in raw.get("looks", {}).items()}
            for key, value in raw.items():
                if isinstance(value, list):
                    raw[key] = tuple(value)
            return cls(**raw)
        except (json.JSONDecodeError, TypeError, KeyError, AttributeError) as error:
            raise ModelError(f"{where}: its card cannot be read ({error})") from error


def _colour(values: list[int]) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in values)
    return red, green, blue


def default_colours(count: int) -> list[tuple[int, int, int]]:
    """Distinct colours for classes without one; the first is black, for a background.

    The bit-reversal scheme of the Pascal VOC colour map (VOCdevkit, `VOClabelcolormap`).
    """
    colours = []
    for index in range(count):
        channels = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                channels[channel] |= (index >> (3 * bit + channel) & 1) << (7 - bit)
        colours.append((channels[0], channels[1], channels[2]))
    return colours
