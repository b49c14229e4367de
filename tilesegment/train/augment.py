"""Augmentation: albumentations pipelines written in YAML. The only file that imports albumentations."""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from tilesegment.datasets.sample import IGNORE, Sample
from tilesegment.errors import SettingsError
from tilesegment.settings import nearest

# It asks a server for its newest version when it is imported.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import albumentations

_INVALID = IGNORE


class Augment:
    """A pipeline of transforms, the same result for the same seed.

    steps: one transform each, `{HorizontalFlip: {p: 0.5}}`, with albumentations' own names and arguments.
    size: (rows, columns) that come out. fit: `resize`, or `crop` to a random place, with what is missing
    filled as ignored. Whatever a transform brings in from outside a picture is ignored as well.

    Raises SettingsError for an unknown transform or argument.
    """

    def __init__(self, steps: Sequence[dict[str, Any]], size: tuple[int, int], fit: str) -> None:
        rows, cols = size
        if fit == "resize":
            last = albumentations.Resize(rows, cols)
        else:
            last = albumentations.RandomCrop(
                rows, cols, pad_if_needed=True, pad_position="random", fill=0, fill_mask=_INVALID
            )
        self._pipeline = albumentations.Compose([*(_transform(step) for step in steps), last])

    def __call__(self, sample: Sample, seed: int) -> Sample:
        """A sample of the pipeline's size; its validity goes through as a mask."""
        self._pipeline.set_random_seed(seed)
        valid = np.where(sample.valid, 1, _INVALID).astype(np.uint8)
        picture = np.ascontiguousarray(sample.values.transpose(1, 2, 0))
        contact = [] if sample.contact is None else [sample.contact]
        found = self._pipeline(image=picture, masks=[sample.label, valid, *contact])
        label, valid, *contact = found["masks"]
        return Sample(found["image"].transpose(2, 0, 1), label, valid == 1, *contact)


def resized(sample: Sample, size: tuple[int, int]) -> Sample:
    """A sample scaled to (rows, columns), as `Augment` with `resize` does it."""
    if sample.label.shape == size:
        return sample
    return _resizer(size)(sample, 0)


@lru_cache(maxsize=4)
def _resizer(size: tuple[int, int]) -> Augment:
    return Augment([], size, "resize")


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
