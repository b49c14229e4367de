"""A model as teacher: it draws the outlines of buildings of which only boxes are known."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from tilesegment.datasets.crops import CropReader
from tilesegment.datasets.outlining import label_of_outlines
from tilesegment.datasets.pairs import Pair, PairReader
from tilesegment.datasets.sample import Reader, Sample
from tilesegment.errors import SettingsError
from tilesegment.model.build import load_network, padded_logits
from tilesegment.model.cache import cached
from tilesegment.model.card import Card
from tilesegment.model.store import ModelFile, find_model
from tilesegment.raster.picture import Part, picture_size, read_colour, resampled
from tilesegment.train.batches import to_tensors
from tilesegment.train.counting import shares_of

# Counts up with what is drawn: a label that another version drew is drawn anew.
_VERSION = 1


def taught(
    reader: Reader,
    teacher: str,
    device: torch.device,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Reader:
    """A reader whose training pictures with boxes have labels that a model drew, see
    `datasets.outlining`; they are kept in the user's cache folder.

    Raises SettingsError where no picture has boxes or the model does not tell roofs from the rest.
    """
    pictures = reader.pictures if isinstance(reader, CropReader) else reader
    pairs = pictures.splits.get("train", ()) if isinstance(pictures, PairReader) else ()
    boxed = [pair for pair in pairs if pair.label is None]
    if not isinstance(pictures, PairReader) or not boxed:
        raise SettingsError("data.teacher: no training picture has boxes (boxes.json)")
    model = find_model(teacher)
    if not model.card.is_binary:
        raise SettingsError(f"data.teacher: {teacher} does not tell one class from a background")
    artist = _Artist(model, device)
    drawn = {}
    for done, pair in enumerate(boxed, 1):
        drawn[pair.name] = replace(pair, outlines=artist.outlines(pair))
        progress(done, len(boxed))
    train = tuple(drawn.get(pair.name, pair) for pair in pairs)
    pictures = replace(pictures, splits={**pictures.splits, "train": train})
    return replace(reader, pictures=pictures) if isinstance(reader, CropReader) else pictures


class _Artist:
    """Draws with one model, which is only loaded where something is not drawn yet."""

    def __init__(self, model: ModelFile, device: torch.device) -> None:
        self._model, self._device = model, device
        self._network: nn.Module | None = None

    def outlines(self, pair: Pair) -> bytes:
        """A PNG of class indices."""
        key = hashlib.sha256(f"{_VERSION} {self._model.sha256} {pair.boxes} {pair.metres}".encode())
        key.update(pair.image.read_bytes())
        name = f"outlines-{key.hexdigest()[:32]}.png"
        return cached(name, lambda path: self._draw(pair, path)).read_bytes()

    def _draw(self, pair: Pair, path: Path) -> None:
        card = self._model.card
        rows, cols = picture_size(pair.image)
        scale = pair.metres / card.gsd if pair.metres and card.gsd else 1.0
        shape = max(1, round(rows * scale)), max(1, round(cols * scale))
        seen = read_colour(pair.image, Part(None, shape))
        unknown = np.zeros(shape, np.uint8)
        probability = self._probability(Sample(seen.values, unknown, seen.valid), card)
        whole = read_colour(pair.image)
        own = np.asarray(resampled(probability[None], (rows, cols))[0], np.float32)
        label = label_of_outlines(whole.values, own, pair.boxes, card.threshold)
        buffer = io.BytesIO()
        Image.fromarray(label).save(buffer, "PNG", optimize=True)
        path.write_bytes(buffer.getvalue())

    def _probability(self, sample: Sample, card: Card) -> NDArray[np.float32]:
        """The mean over the picture and its mirror images."""
        if self._network is None:
            self._network = load_network(self._model).to(self._device).eval()
        values = to_tensors(sample, card)[0].to(self._device)[None]
        total = torch.zeros(sample.label.shape)
        with torch.inference_mode():
            for axes in ([], [2], [3], [2, 3]):
                logits = padded_logits(self._network, values.flip(axes)).float()[:, : len(card.classes)]
                total += shares_of(logits).flip(axes)[0, 1].cpu()
        return np.asarray(total / 4, np.float32)
