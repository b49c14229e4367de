"""Whether a scene looks like what the model learnt from."""

from __future__ import annotations

from tilesegment.model.card import Card
from tilesegment.model.look import drift_of, enough_of, look_of
from tilesegment.model.preprocess import ValueRange, in_range
from tilesegment.raster.source import Scene
from tilesegment.raster.values import few_windows


def scene_drift(scene: Scene, values: ValueRange, card: Card) -> tuple[dict[str, float], list[str]]:
    """How far the scene's looks are from what the model learnt from, and a warning of what is too far."""
    looks = []
    if card.looks:
        for pixels in few_windows(scene):
            few = enough_of(pixels.values[:, pixels.valid])
            looks.append(look_of(in_range(few[:, None], values)[:, 0], card.bands))
    off, words = drift_of([look for look in looks if look is not None], card.looks)
    if not words:
        return off, []
    return off, [
        f"the scene is {' and '.join(words)} than the pictures that {card.name} learnt from: look at the "
        "result before you trust it"
    ]
