"""Augmentation: albumentations pipelines written in YAML. The only file that imports albumentations."""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from tilesegment.datasets.sample import IGNORE, Sample
from tilesegment.errors import SettingsError
from tilesegment.raster.picture import nearest as nearest_pixels
from tilesegment.raster.picture import resampled
from tilesegment.settings import nearest

# It asks a server for its newest version when it is imported.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import albumentations

_INVALID = IGNORE


class Augment:
    """A pipeline of transforms, the same result for the same seed.

    steps: one transform each, `{HorizontalFlip: {p: 0.5}}`, with albumentations' own names and arguments.
    size: (rows, columns) that come out. fit: `resize` pictures to it before anything else; what transforms
    then make larger or smaller, and with `crop` every picture, is cut to it at a random place, with what is
    missing filled as ignored. Whatever a transform brings in from outside a picture is ignored as well.

    Raises SettingsError for an unknown transform or argument.
    """

    def __init__(self, steps: Sequence[dict[str, Any]], size: tuple[int, int], fit: str) -> None:
        rows, cols = size
        # Pictures are scaled before, so that what a transform scales is not scaled back.
        self._first = size if fit == "resize" else None
        last = albumentations.RandomCrop(
            rows, cols, pad_if_needed=True, pad_position="random", fill=0, fill_mask=_INVALID
        )
        self._pipeline = albumentations.Compose([*(_transform(step) for step in steps), last])

    def __call__(self, sample: Sample, seed: int) -> Sample:
        """A sample of the pipeline's size; its validity goes through as a mask."""
        if self._first is not None:
            sample = resized(sample, self._first)
        self._pipeline.set_random_seed(seed)
        valid = np.where(sample.valid, 1, _INVALID).astype(np.uint8)
        picture = np.ascontiguousarray(sample.values.transpose(1, 2, 0))
        contact = [] if sample.contact is None else [sample.contact]
        found = self._pipeline(image=picture, masks=[sample.label, valid, *contact])
        label, valid, *contact = found["masks"]
        return Sample(found["image"].transpose(2, 0, 1), label, valid == 1, *contact)


def resized(sample: Sample, size: tuple[int, int]) -> Sample:
    """A sample scaled to (rows, columns) as prediction reads pictures: same input, same tensor."""
    if sample.label.shape == size:
        return sample
    values, valid = resampled(sample.values, size), nearest_pixels(sample.valid, size)
    contact = None if sample.contact is None else nearest_pixels(sample.contact, size)
    return Sample(values, nearest_pixels(sample.label, size), valid, contact)


def _transform(step: dict[str, Any]) -> Any:
    if not isinstance(step, dict) or len(step) != 1:
        raise SettingsError(f"augment: {step!r}: write one transform each, {{HorizontalFlip: {{p: 0.5}}}}")
    ((name, given),) = step.items()
    names = [n for n, kind in vars(albumentations).items() if inspect.isclass(kind)]
    kind = getattr(albumentations, str(name), None)
    if not inspect.isclass(kind) or not issubclass(kind, albumentations.BasicTransform):
        raise SettingsError(f"augment: no transform is called {name!r}{nearest(str(name), names)}")
    known = inspect.signature(kind.__init__).parameters
    arguments = dict(given or {})
    for key in arguments:
        if key not in known:
            raise SettingsError(f"augment: {name} has no argument {key!r}{nearest(key, known)}")
    for key, value in (("fill", 0), ("fill_mask", _INVALID)):
        if key in known:
            arguments.setdefault(key, value)
    try:
        return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in arguments.items()})
    except (TypeError, ValueError) as error:
        raise SettingsError(f"augment: {name}: {' '.join(str(error).split())}") from error
