"""The story of a training run: open the data, build the network, train, test, draw, report."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from tilesegment.atomic import write_text
from tilesegment.datasets.opening import open_reader
from tilesegment.datasets.sample import SPLITS, Reader
from tilesegment.datasets.values import looks_of, values_of
from tilesegment.errors import OutputError, SettingsError
from tilesegment.evaluate.pixels import Confusion
from tilesegment.model.build import build_network, load_network
from tilesegment.model.card import IMAGENET_MEAN, IMAGENET_STD, Card
from tilesegment.model.pretrained import Normalisation, normalisation
from tilesegment.model.store import find_model
from tilesegment.raster.picture import nearest
from tilesegment.report.panels import coloured, laid_over, picture_of, sheet_of
from tilesegment.train.batches import FixedData, views
from tilesegment.train.checkpoint import STATE
from tilesegment.train.config import TrainConfig, load_config, plain
from tilesegment.train.loop import BEST, Trainer
from tilesegment.train.plots import draw_confusion, draw_curves
from tilesegment.train.processes import Processes, read_workers
from tilesegment.train.report import Status, environment, report, write_metrics
from tilesegment.train.start import start_network
from tilesegment.train.teacher import taught

_AERIAL_TILE = (512, 512)
_CONFIG = "config.yaml"
_ENVIRONMENT = "environment.json"
_SPLITS = "splits.json"
# What the card has from what a run began with.
_OF_START = ("architecture", "encoder", "options", "license", "credits", "data")
# Pictures of a split below which its figures hang on single ones.
_FEW = 5


@dataclass(frozen=True)
class Listener:
    """Who is told what happens. line: an epoch's line; status: every batch; note: what the user should
    know; outlines: how many pictures of how many a teacher has drawn."""

    line: Callable[[str], None] = lambda text: None
    status: Callable[[Status], None] = lambda status: None
    note: Callable[[str], None] = lambda text: None
    outlines: Callable[[int, int], None] = lambda done, total: None


_SILENT = Listener()


def run_training(
    config: TrainConfig,
    data: Path,
    folder: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    listener: Listener = _SILENT,
) -> dict[str, Any]:
    """Train on `data` into the run folder; the metrics of the best weights on the test split.

    Raises TilesegmentError: before anything is trained where settings, data or folder cannot be used, later
    where the disk is full or the loss diverges; what was saved stays.
    """
    processes = Processes(device)
    if config.hard_share and processes.count > 1:
        raise SettingsError("hard_share: processes do not tell each other what was hard; leave it out")
    if not processes.is_first:
        listener = _SILENT
    reader = open_reader(config.data.reader, data, config.data.options, config.data.size, config.seed)
    for note in [*reader.notes, *_few(reader)]:
        listener.note(note)
    if config.data.teacher is not None:
        reader = taught(reader, config.data.teacher, processes.device, listener.outlines)
    going_on = resume and (folder / STATE).is_file()
    _check_folder(folder, config, going_on, resume, overwrite)
    if resume and not going_on:
        listener.note(f"{folder}: nothing was saved yet; starting at the first epoch")
    card = make_card(config, reader)
    if card.dtype != "uint8":
        low, high = card.value_range
        listener.note(f"the pictures are {card.dtype}: {low:g} to {high:g} becomes dark to bright")
    torch.manual_seed(config.seed)
    network, card = _network_of(folder, card) if going_on else start_network(config, card, listener.note)
    trainer = Trainer(
        config, reader, network, card, folder, processes, _Saver(folder, config, listener), listener.status
    )
    if going_on:
        trainer.resume()
        if trainer.state.epoch > config.epochs:
            raise SettingsError(
                f"{folder}: {trainer.state.epoch} epochs are done already, and epochs is {config.epochs}"
            )
        listener.note(f"going on after epoch {trainer.state.epoch} of {config.epochs}")
    # Only now: settings that cannot be used leave no folder, and an earlier run where it was.
    processes.wait()
    if processes.is_first:
        _open_folder(folder, trainer, overwrite and not going_on)
    if not going_on and config.model.start not in (None, "coco"):
        listener.line(f"Before training: val IoU {trainer.evaluate('val')[1].summary()['iou']:.4f}")
    try:
        trainer.fit()
    except BaseException as error:
        if (folder / STATE).is_file():
            error.add_note(
                f"the state in {folder} is saved: the same command with --resume goes on from it"
            )
        raise
    return _finish(config, reader, trainer, folder, data)


def _few(reader: Reader) -> list[str]:
    """A line for a split that is too small to say much."""
    counts = {name: len(reader.names(name)) for name in ("val", "test")}
    return [
        f"the {name} split has {count} pictures only: figures of it may be far off"
        for name, count in counts.items()
        if 0 < count < _FEW
    ]


def resumed_config(folder: Path, changes: Sequence[str]) -> TrainConfig | None:
    """The configuration of an interrupted run in a folder, with changes; None where there is none. What it
    was begun with need not be given again."""
    path = folder / _CONFIG
    return load_config(str(path), changes) if path.is_file() else None


def make_card(config: TrainConfig, reader: Reader) -> Card:
    """The card of the model that a run makes."""
    one_channel = "bce" in config.loss
    size, fitted = config.data.size, config.data.fit == "resize"
    aerial = config.data.reader.startswith("rooftop")
    mean, std = _normalisation(config)
    dtype, value_range = values_of(reader)
    return Card(
        name=config.name,
        architecture=config.model.architecture,
        encoder=config.model.encoder,
        classes=reader.classes[1:] if one_channel else reader.classes,
        dtype=dtype,
        value_range=config.card.value_range or value_range,
        mean=mean,
        std=std,
        contact=config.model.contact,
        gsd=reader.gsd,
        image_size=size if fitted and not aerial else None,
        tile=config.card.tile or (_AERIAL_TILE if aerial else size),
        overlap=min(config.card.overlap, min(config.card.tile or size) // 2),
        threshold=config.card.threshold,
        options=config.model.options,
        license=config.card.license,
        credits=config.card.credits,
        data=(config.data.reader,),
        looks=looks_of(reader, config.card.value_range or value_range),
    )


def _normalisation(config: TrainConfig) -> Normalisation:
    """Mean and standard deviation by band: as given, or those of the weights that training starts from."""
    model = config.model
    known = None
    if model.start not in (None, "coco"):
        card = find_model(str(model.start)).card
        known = card.mean, card.std
    elif model.encoder_weights is not None:
        known = normalisation(model.encoder)
    mean, std = known or (IMAGENET_MEAN, IMAGENET_STD)
    return config.card.mean or mean, config.card.std or std


def _network_of(folder: Path, card: Card) -> tuple[nn.Module, Card]:
    """The network that an interrupted run had begun with; its weights come from the saved state."""
    begun = json.loads((folder / _ENVIRONMENT).read_text(encoding="utf-8"))
    begun |= {name: tuple(begun[name]) for name in ("credits", "data") if name in begun}
    card = replace(card, **{name: begun[name] for name in _OF_START if name in begun})
    return build_network(card), card


class _Saver:
    """Writes what an epoch brings, and passes on its line."""

    def __init__(self, folder: Path, config: TrainConfig, listener: Listener) -> None:
        self._folder, self._config, self._listener = folder, config, listener

    def __call__(self, line: str, history: list[dict[str, float]]) -> None:
        write_metrics(self._folder, history)
        draw_curves(self._folder / "curves.png", history)
        if self._config.tensorboard:
            self._to_board(history[-1])
        self._listener.line(line)

    def _to_board(self, row: dict[str, float]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(self._folder / "tensorboard")) as board:
            for name, value in row.items():
                board.add_scalar(name, value, int(row["epoch"]))


def _check_folder(folder: Path, config: TrainConfig, going_on: bool, resume: bool, overwrite: bool) -> None:
    """Raises OutputError where a run may not be written, SettingsError where it could not be to the end.
    going_on: a saved state is there."""
    if config.tensorboard and find_spec("tensorboard") is None:
        raise SettingsError("tensorboard: it is not installed; pip install 'tilesegment[tensorboard]'")
    if folder.exists() and any(folder.iterdir()) and not resume and not overwrite:
        raise OutputError(f"{folder}: exists already; give --resume, --overwrite or another -o")
    if going_on:
        # Through the parser: a key that an older version did not write has its default.
        before = plain(load_config(str(folder / _CONFIG)))
        changed = [
            key for key, value in plain(config).items() if before.get(key) != value and key != "epochs"
        ]
        if changed:
            raise OutputError(
                f"{folder}: {changed[0]} differs from the interrupted run; --resume goes on unchanged"
            )
    elif overwrite and folder.exists() and not (folder / _CONFIG).is_file():
        raise OutputError(f"{folder}: is no run folder; --overwrite does not remove it")


def _open_folder(folder: Path, trainer: Trainer, afresh: bool) -> None:
    """Make the run folder, with what the run is made of. afresh: remove an earlier run."""
    config, reader = trainer.config, trainer.reader
    known = environment(trainer.device, trainer.precision, read_workers(config))
    known |= {name: getattr(trainer.card, name) for name in _OF_START}
    parts = {name: list(reader.names(name)) for name in SPLITS}
    if afresh and folder.exists():
        shutil.rmtree(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made ({error.strerror})") from error
    write_text(folder / _CONFIG, yaml.safe_dump(plain(config), sort_keys=False))
    write_text(folder / _ENVIRONMENT, json.dumps(known, indent=1) + "\n")
    write_text(folder / _SPLITS, json.dumps(parts, indent=1) + "\n")


def _finish(
    config: TrainConfig, reader: Reader, trainer: Trainer, folder: Path, data: Path
) -> dict[str, Any]:
    """Test the best weights and report."""
    history = trainer.state.history
    best = find_model(str(folder / BEST))
    trainer.evaluated.load_state_dict(load_network(best).state_dict())
    split, loss, confusion = _tested(reader, trainer)
    result = {
        "folder": str(folder),
        "epochs": len(history),
        "split": split,
        "loss": loss,
        **confusion.summary(),
        "best": {key: abs(value) for key, value in trainer.state.best.items()},
    }
    if trainer.is_first:
        _publish(config, reader, trainer, folder, data, (split, loss, confusion))
    return result


def _tested(reader: Reader, trainer: Trainer) -> tuple[str, float, Confusion]:
    """Loss and confusion of the test split; of the validation split where there is no other, which has
    labels: those that are not published are dummies."""
    if len(reader.names("test")) and list(reader.names("test")) != list(reader.names("val")):
        loss, confusion = trainer.evaluate("test")
        if confusion.matrix.any():
            return "test", loss, confusion
    return "val", *trainer.evaluate("val")


def _publish(
    config: TrainConfig,
    reader: Reader,
    trainer: Trainer,
    folder: Path,
    data: Path,
    tested: tuple[str, float, Confusion],
) -> None:
    """Pictures and report."""
    split, _, confusion = tested
    names = [entry.name for entry in reader.classes]
    draw_confusion(folder / "confusion.png", confusion.matrix, names)
    _draw_panels(config, reader, trainer, split, folder / "panels.png")
    facts = {
        "model": f"{trainer.card.architecture} / {trainer.card.encoder}",
        "data": str(data),
        "pictures": ", ".join(f"{name} {len(reader.names(name))}" for name in ("train", "val", "test")),
        "device": f"{trainer.device}, {trainer.precision}",
    }
    text = report(config.name, trainer.state.history, tested, names, reader.notes, facts)
    write_text(folder / "report.md", text)
    write_text(folder / "confusion.csv", _matrix_csv(names, confusion))


def _matrix_csv(names: list[str], confusion: Confusion) -> str:
    rows = [",".join(["truth", *names])]
    rows += [",".join([name, *map(str, line)]) for name, line in zip(names, confusion.matrix, strict=True)]
    return "\n".join(rows) + "\n"


def _draw_panels(config: TrainConfig, reader: Reader, trainer: Trainer, split: str, path: Path) -> None:
    chosen = views(reader, split, config.data.size, config.data.fit)
    step = max(1, len(chosen) // max(1, config.panels))
    chosen = chosen[::step][: config.panels]
    data = FixedData(reader, split, chosen, config.data.size, config.data.fit, trainer.card)
    rows, names = [], []
    for index in range(len(chosen)):
        sample, found = data.sample(index), trainer.classes_of(data[index][0])
        if config.data.fit == "resize":
            # Shown as it is, and not as the network sees it.
            sample = reader.read(split, chosen[index].index, None)
            found = nearest(found, sample.label.shape)
        base = picture_of(sample, trainer.card.value_range)
        names.append(reader.names(split)[chosen[index].index])
        rows.append(
            [
                base,
                coloured(sample.label, reader.classes),
                coloured(found, reader.classes),
                laid_over(base, found, reader.classes),
            ]
        )
    if rows:
        sheet_of(rows, ["image", "truth", "prediction", "overlay"], names).save(path)
