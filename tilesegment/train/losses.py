"""Losses by name, their weighted sums, and weights of classes. Pixels labelled IGNORE never count."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tilesegment.datasets.sample import IGNORE, Reader
from tilesegment.errors import InputError, SettingsError
from tilesegment.settings import nearest
from tilesegment.train.config import TrainConfig

Term = Callable[[Tensor, Tensor], Tensor]
LOSSES = ("cross_entropy", "bce", "focal", "focal_tversky", "dice", "lovasz")
CONTACT = "contact"
# Pictures whose labels are counted for `class_weights: auto`.
_COUNTED = 1000
# Focal Tversky loss (Abraham and Khan 2019, arXiv 1810.07842): false negatives weigh more than false
# positives, and the exponent is the inverse of their gamma, 4/3.
_TVERSKY = {"alpha": 0.3, "beta": 0.7, "gamma": 0.75}


class Loss(nn.Module):
    """A weighted sum of losses.

    terms: weight by name: `cross_entropy` (two or more channels), `bce` (one channel), `focal`,
    `focal_tversky`, `dice`, `lovasz` (segmentation-models-pytorch's), and `contact` for the channel after
    the classes' own. channels: of the classes. weights: of the classes, (classes,), for cross_entropy and
    focal; of one channel (bce, focal) the positive class counts weights[1] / weights[0] times.

    Raises SettingsError for an unknown name or a combination that cannot be.
    """

    def __init__(self, terms: Mapping[str, float], channels: int, weights: Tensor | None = None) -> None:
        super().__init__()
        if not terms:
            raise SettingsError(f"loss: give at least one of {', '.join(LOSSES)}")
        terms = dict(terms)
        self._contact = float(terms.pop(CONTACT, 0.0))
        for name in terms:
            if name not in LOSSES:
                raise SettingsError(f"loss: no loss is called {name!r}{nearest(name, LOSSES)}")
        if ("bce" in terms) != (channels == 1):
            raise SettingsError("loss: bce is for networks of one channel, cross_entropy for several")
        if "bce" in terms and "cross_entropy" in terms:
            raise SettingsError("loss: bce and cross_entropy exclude each other")
        self.register_buffer("_weights", weights)
        self._terms: list[tuple[float, Term]] = [
            (float(weight), self._term(name, channels)) for name, weight in terms.items()
        ]

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """logits: (n, channels, rows, columns); label: (n, rows, columns) int64, or with a contact channel
        (n, 2, rows, columns), the classes and the contact. A scalar; 0, with a gradient of 0, where every
        pixel is ignored."""
        logits = logits.float()
        if label.ndim == 4:
            of_classes: Tensor = self(logits[:, :-1], label[:, 0])
            return of_classes + self._contact * contact_loss(logits[:, -1], label[:, 1])
        if not (label != IGNORE).any():
            return logits.sum() * 0.0
        return torch.stack([weight * term(logits, label) for weight, term in self._terms]).sum()

    def _term(self, name: str, channels: int) -> Term:
        from segmentation_models_pytorch import losses

        mode = "binary" if channels == 1 else "multiclass"
        if name == "cross_entropy":
            return self._cross_entropy
        if name == "bce":
            return self._binary_cross_entropy
        if name == "focal":
            plain: Term = losses.FocalLoss(mode, ignore_index=IGNORE)
            summed: Term = losses.FocalLoss("binary", ignore_index=IGNORE, reduction="sum")
            return lambda logits, label: self._focal(logits, label, plain, summed)
        if name == "focal_tversky":
            found: Term = losses.TverskyLoss(mode, ignore_index=IGNORE, **_TVERSKY)
        elif name == "dice":
            found = losses.DiceLoss(mode, ignore_index=IGNORE)
        else:
            found = losses.LovaszLoss(mode, ignore_index=IGNORE)
        return found

    def _cross_entropy(self, logits: Tensor, label: Tensor) -> Tensor:
        return functional.cross_entropy(logits, label, weight=self._of_classes(), ignore_index=IGNORE)

    def _binary_cross_entropy(self, logits: Tensor, label: Tensor) -> Tensor:
        known = label != IGNORE
        weights = self._of_classes()
        ratio = None if weights is None else weights[1] / weights[0]
        return functional.binary_cross_entropy_with_logits(
            logits[:, 0][known], label[known].float(), pos_weight=ratio
        )

    def _focal(self, logits: Tensor, label: Tensor, plain: Term, summed: Term) -> Tensor:
        """smp's focal loss (Lin et al. 2017) without weights; with them the same mean over classes, each
        times its weight. summed: over known pixels, of one channel."""
        weights = self._of_classes()
        if weights is None:
            return plain(logits, label)
        known = (label != IGNORE).sum()
        if logits.shape[1] == 1:
            # Positive and negative pixels apart.
            total = sum(
                weights[value] / weights[0]
                * summed(logits, torch.where(label == value, label, torch.full_like(label, IGNORE)))
                for value in (0, 1)
            )  # fmt: skip
            return torch.as_tensor(total) / known
        parts = []
        for number, weight in enumerate(weights):
            truth = torch.where(label == IGNORE, label, (label == number).to(label.dtype))
            parts.append(weight * summed(logits[:, number], truth))
        return torch.stack(parts).mean() / known

    def _of_classes(self) -> Tensor | None:
        weights = self._weights
        return weights if isinstance(weights, Tensor) else None


def contact_loss(logit: Tensor, label: Tensor) -> Tensor:
    """Half binary cross-entropy and half Dice of the contact channel, (n, rows, columns) each, over pixels
    where the label is known; 0, with a gradient of 0, where none is."""
    known = label != IGNORE
    logit, truth = logit[known], label[known].float()
    if not len(truth):
        return logit.sum() * 0.0
    entropy = functional.binary_cross_entropy_with_logits(logit, truth)
    probability = logit.sigmoid()
    # 1 in both sums: a batch without contact teaches by its cross-entropy.
    dice = 1 - (2 * (probability * truth).sum() + 1) / (probability.sum() + truth.sum() + 1)
    return (entropy + dice) / 2


def class_weights(config: TrainConfig, reader: Reader, classes: int) -> Tensor | None:
    """Weights of the classes: by name (1 where none is given), or with `auto` in inverse proportion to
    their pixels, on average 1 a pixel; a class that never occurs gets the largest of the others.

    Raises SettingsError for a name that is no class.
    """
    given, names = config.class_weights, [entry.name for entry in reader.classes]
    if given is None:
        return None
    if isinstance(given, dict):
        for name in given:
            if name not in names:
                raise SettingsError(f"class_weights: {name!r} is no class{nearest(name, names)}")
        return torch.tensor([float(given.get(name, 1.0)) for name in names])
    if given != "auto":
        raise SettingsError(f"class_weights {given!r}: use auto, or a weight by class name")
    total = len(reader.names("train"))
    pixels = np.zeros(classes, np.int64)
    for index in np.linspace(0, total - 1, min(total, _COUNTED)).astype(int).tolist():
        label = reader.read("train", index, np.random.default_rng([config.seed, index])).label
        pixels += np.bincount(label[label != IGNORE], minlength=classes)[:classes]
    if not pixels.any():
        raise InputError("class_weights auto: the training pictures have no labelled pixel")
    share = pixels / pixels.sum()
    weights = np.divide(1.0, classes * share, out=np.full(classes, np.nan), where=share > 0)
    return torch.tensor(np.nan_to_num(weights, nan=np.nanmax(weights)), dtype=torch.float32)
