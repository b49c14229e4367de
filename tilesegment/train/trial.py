"""A network of a configuration, asked once: whether it can be built, and what it answers."""

from __future__ import annotations

import time

import torch

from tilesegment.datasets.sample import Reader
from tilesegment.errors import InputError, ModelError
from tilesegment.model.build import build_network
from tilesegment.train.batches import FixedData, views
from tilesegment.train.config import TrainConfig
from tilesegment.train.run import make_card


def tried_network(config: TrainConfig, reader: Reader) -> str:
    """One line: how many weights, the shapes of a batch of the data set and of its answer, and the seconds
    of a forward pass on the CPU. The network is untrained: nothing is downloaded.

    Raises ModelError where it cannot be built or does not answer with numbers, one map a class.
    """
    split = next((name for name in ("train", "val", "test") if reader.names(name)), None)
    if split is None:
        raise InputError("there is no picture to ask the network about")
    card = make_card(config, reader)
    network = build_network(card).eval()
    size, fit = config.data.size, config.data.fit
    chosen = views(reader, split, size, fit)[: min(2, config.batch)]
    data = FixedData(reader, split, chosen, size, fit, card)
    tiles = torch.stack([torch.as_tensor(data[k][0]) for k in range(len(chosen))])
    begin = time.perf_counter()
    with torch.inference_mode():
        logits = network(tiles)
    seconds = time.perf_counter() - begin
    expected = (len(tiles), card.outputs, *tiles.shape[-2:])
    if tuple(logits.shape) != expected or not bool(torch.isfinite(logits).all()):
        raise ModelError(f"{card.architecture}: answers {tuple(logits.shape)}, expected {expected} numbers")
    weights = sum(parameter.numel() for parameter in network.parameters())
    learning = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    shown = " x ".join(map(str, tiles.shape)), " x ".join(map(str, logits.shape))
    return (
        f"{card.architecture} / {card.encoder}: {weights / 1e6:.2f} million weights ({learning / 1e6:.2f} "
        f"learn), {shown[0]} to {shown[1]} in {seconds:.2f} s on the CPU"
    )
