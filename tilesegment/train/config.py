"""What a training run is, as data: one YAML file, checked key by key."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml

from tilesegment.errors import SettingsError
from tilesegment.settings import nearest


@dataclass(frozen=True)
class DataConfig:
    """reader: see `datasets.opening`. size: (rows, columns) of what the network sees. fit: `crop` cuts
    pictures to it, `resize` scales them. teacher: a model that draws outlines where only boxes are known,
    see `train.teacher`. options: the reader's own; every other key under `data`."""

    reader: str
    size: tuple[int, int]
    fit: str = "crop"
    teacher: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelConfig:
    """architecture, encoder: names of segmentation-models-pytorch, or `torchvision.deeplabv3_resnet101`.
    encoder_weights: `imagenet`, a file of them (see `model.pretrained`) or null. start: a model file to go
    on from, or `coco` for torchvision's COCO weights where they can be had. contact: learn a last channel
    besides the classes, see `model.card`; the reader must know which buildings touch. options: further
    arguments of the architecture."""

    architecture: str
    encoder: str
    encoder_weights: str | None = None
    start: str | None = None
    contact: bool = False
    options: dict[str, Any] = field(default_factory=dict)


# What people look for beside the name of an optimiser.
_OF_OPTIMISERS = ("lr", "weight_decay", "momentum", "betas")
FREEZE = ("statistics", "encoder")


@dataclass(frozen=True)
class NamedConfig:
    """A class of torch by its name, with its arguments. each: when a scheduler steps, `epoch` or `step`;
    None: by step where it is made for that (`OneCycleLR`, `CyclicLR`), else by epoch."""

    name: str
    each: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CardConfig:
    """What the finished model's card says besides what follows from the data. tile: (rows, columns) to
    predict in, by default the training size for pictures, 512x512 for aerial work. mean, std: by default
    those that the starting weights were trained with. value_range: what becomes 0 and 1, by default found
    in the pictures (see `datasets.values`)."""

    tile: tuple[int, int] | None = None
    overlap: int = 64
    threshold: float = 0.5
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    value_range: tuple[float, float] | None = None
    license: str = ""
    credits: tuple[str, ...] = ()


@dataclass(frozen=True)
class TrainConfig:
    """A training run.

    loss: weights of the terms (see `train.losses`). class_weights: null, `auto` (inverse frequency, counted
    on the training labels) or a weight by class name. encoder_rate: the encoder's learning rate, times that
    of the rest; layer_decay: that of each of its blocks, times that of the next. freeze: what stays as it
    was, `statistics` of normalisation or the `encoder`. warmup: epochs in which the learning rate rises.
    ema: decay of the averaged weights, 0 for none. accumulate: batches a step. clip: largest gradient norm,
    0 for none. precision: auto, fp32, bf16 or fp16. patience: epochs without a better `watch`ed metric
    before it stops, 0 for never. save_minutes: how often a long epoch saves its state. workers: processes
    that read, null for a number that fits the machine. panels: pictures shown of the test split.
    hard_share: of the pictures, how many are seen again in the next epoch, those with most false alarms.
    mixstyle: of the batches, how many have the styles of their pictures mixed (see `train.mixstyle`).
    """

    name: str
    data: DataConfig
    model: ModelConfig
    loss: dict[str, float]
    optimizer: NamedConfig
    epochs: int
    batch: int
    scheduler: NamedConfig | None = None
    augment: tuple[dict[str, Any], ...] = ()
    card: CardConfig = CardConfig()
    seed: int = 0
    class_weights: str | dict[str, float] | None = None
    encoder_rate: float = 1.0
    layer_decay: float = 1.0
    freeze: tuple[str, ...] = ()
    warmup: float = 0.0
    ema: float = 0.0
    accumulate: int = 1
    clip: float = 0.0
    precision: str = "auto"
    patience: int = 0
    watch: str = "loss"
    save_minutes: float = 10.0
    workers: int | None = None
    panels: int = 6
    hard_share: float = 0.0
    mixstyle: float = 0.0
    tensorboard: bool = False


def bundled_configs() -> dict[str, Path]:
    """The names that `tilesegment train` takes without a file, and their files."""
    spec = find_spec("tilesegment.configs")
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    return {path.stem: path for folder in folders for path in sorted(Path(folder).glob("*.yaml"))}


def load_config(name: str, changes: Sequence[str] = ()) -> TrainConfig:
    """The bundled configuration of that name, or a YAML file, with `key=value` changes applied
    (`epochs=2`, `data.size=[64, 64]`).

    Raises SettingsError for a file that is not there, an unknown key, or a value of the wrong kind.
    """
    known = bundled_configs()
    path = known.get(name, Path(name))
    if not path.is_file():
        raise SettingsError(
            f"{name!r} is no YAML file and none of {', '.join(known)}{nearest(name, known)}"
        )
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(loaded, dict):
        raise SettingsError(f"{path}: expected key: value lines")
    loaded = _with_numbers(loaded)
    for change in changes:
        _apply(loaded, change)
    return parse_config(loaded, str(path))


def load_options(changes: Sequence[str]) -> dict[str, Any]:
    """`key=value` changes alone, as values. Raises SettingsError."""
    raw: dict[str, Any] = {}
    for change in changes:
        _apply(raw, change)
    return raw


def parse_config(raw: Mapping[str, Any], where: str) -> TrainConfig:
    """A configuration from plain values. Raises SettingsError, naming `where` and the key."""
    config: TrainConfig = _build(TrainConfig, raw, where, "")
    if min(config.data.size) < 1 or config.epochs < 1 or config.batch < 1 or config.accumulate < 1:
        raise SettingsError(f"{where}: size, epochs, batch and accumulate must be at least 1")
    for key, value, known in (
        ("data.fit", config.data.fit, ("crop", "resize")),
        ("precision", config.precision, ("auto", "fp32", "bf16", "fp16")),
        ("watch", config.watch, ("loss", "iou")),
        ("scheduler.each", config.scheduler.each if config.scheduler else None, (None, "epoch", "step")),
    ):
        if value not in known:
            raise SettingsError(f"{where}: {key} {value!r} is none of {', '.join(filter(None, known))}")
    if config.model.contact != bool(config.loss.get("contact")):
        raise SettingsError(f"{where}: model.contact and a weight of loss.contact go together")
    for part in config.freeze:
        if part not in FREEZE:
            raise SettingsError(f"{where}: freeze {part!r} is none of {', '.join(FREEZE)}")
    for key, share, most in (
        ("ema", config.ema, False),
        ("hard_share", config.hard_share, False),
        ("mixstyle", config.mixstyle, True),
    ):
        if not 0 <= share < 1 and not (most and share == 1):
            raise SettingsError(f"{where}: {key} {share} is not between 0 and 1")
    return config


def plain(config: TrainConfig) -> dict[str, Any]:
    """As `parse_config` reads it: for the run folder."""
    raw = dataclasses.asdict(config)
    for key in ("data", "optimizer", "scheduler"):
        if raw[key] is not None:
            raw[key] |= raw[key].pop("options")
    return typing.cast(dict[str, Any], _as_lists(raw))


def _as_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_lists(entry) for key, entry in value.items()}
    return [_as_lists(entry) for entry in value] if isinstance(value, tuple | list) else value


def _with_numbers(value: Any) -> Any:
    """YAML 1.1 takes `1e-3` for a word, and nobody means one."""
    if isinstance(value, dict):
        return {key: _with_numbers(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_with_numbers(entry) for entry in value]
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value):
        return float(value)
    return value


def _apply(raw: dict[str, Any], change: str) -> None:
    key, equals, text = change.partition("=")
    if not equals:
        raise SettingsError(f"--set {change}: write key=value")
    try:
        value = _with_numbers(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise SettingsError(f"--set {change}: {text!r} is no YAML value") from error
    *parents, last = key.strip().split(".")
    for parent in parents:
        below = raw.setdefault(parent, {})
        if not isinstance(below, dict):
            raise SettingsError(f"--set {change}: {parent!r} holds no keys")
        raw = below
    raw[last] = value


# Keys that these take besides their own fields go to `options`.
_OPEN = (DataConfig, NamedConfig)


def _place_of(key: str) -> str | None:
    """Advice for a key that belongs into a section: `encoder` is `model.encoder`."""
    for section, kind in (("model", ModelConfig), ("data", DataConfig), ("card", CardConfig)):
        if key in {f.name for f in dataclasses.fields(kind)} - {"options"}:
            return f"; did you mean '{section}.{key}'?"
    return f"; did you mean 'optimizer.{key}'?" if key in _OF_OPTIMISERS else None


def _build(kind: type[Any], raw: Any, where: str, prefix: str) -> Any:
    if not isinstance(raw, Mapping):
        raise SettingsError(f"{where}: {prefix.rstrip('.')} must hold keys, not {raw!r}")
    fields = {f.name: f for f in dataclasses.fields(kind)}
    hints = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    spare: dict[str, Any] = {}
    for key, value in raw.items():
        if key in fields and not (kind in _OPEN and key == "options"):
            values[key] = _value(hints[key], value, where, prefix + key)
        elif kind in _OPEN:
            spare[str(key)] = value
        else:
            advice = _place_of(str(key)) if kind is TrainConfig else None
            advice = advice or nearest(str(key), fields)
            raise SettingsError(f"{where}: unknown key {prefix}{key}{advice}")
    if kind in _OPEN:
        values["options"] = spare
    missing = [
        name
        for name, f in fields.items()
        if name not in values
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise SettingsError(f"{where}: {prefix}{missing[0]} is missing")
    return kind(**values)


def _value(hint: Any, value: Any, where: str, key: str) -> Any:
    """A value of the kind that a field wants."""
    if isinstance(hint, types.UnionType):
        if value is None and type(None) in get_args(hint):
            return None
        for option in get_args(hint):
            if option is not type(None) and _fits(option, value):
                return _value(option, value, where, key)
        raise SettingsError(f"{where}: {key} cannot be {value!r}")
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _build(hint, value, where, f"{key}.")
    if not _fits(hint, value):
        raise SettingsError(f"{where}: {key} cannot be {value!r}")
    if get_origin(hint) is tuple:
        return tuple(tuple(v) if isinstance(v, list) else v for v in value)
    if get_origin(hint) is dict:
        wanted = get_args(hint)[1]
        for name, entry in value.items():
            if not _fits(wanted, entry):
                raise SettingsError(f"{where}: {key}.{name} cannot be {entry!r}")
        return dict(value)
    return float(value) if hint is float else value


def _fits(hint: Any, value: Any) -> bool:
    if hint is Any:
        return True
    if get_origin(hint) is tuple:
        kinds = get_args(hint)
        if not isinstance(value, list | tuple):
            return False
        if kinds[-1] is not Ellipsis and len(value) != len(kinds):
            return False
        return all(_fits(kinds[0], entry) for entry in value)
    if get_origin(hint) is dict or dataclasses.is_dataclass(hint):
        return isinstance(value, Mapping)
    if isinstance(value, bool):
        return hint is bool
    if hint is float:
        return isinstance(value, int | float)
    return isinstance(value, hint)
