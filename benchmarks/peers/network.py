"""The network of a tilesegment model file, built without tilesegment, for the environments of others."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import segmentation_models_pytorch as smp
import torch
from safetensors.torch import load_file


class Probability(torch.nn.Module):
    """Normalised tiles (n, bands, rows, columns) of bytes 0..255 in, probability of class 1 out."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        with path.open("rb") as file:
            header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        card = json.loads(header["__metadata__"]["tilesegment_card"])
        names = card["classes"]
        network = smp.create_model(
            card["architecture"],
            card["encoder"],
            None,
            in_channels=3,
            classes=len(names),
            **card["options"],
        )
        state = {name: values.float() for name, values in load_file(path).items()}
        network.load_state_dict(state, strict=False)
        self.network = network.eval()
        self.two = len(names) == 2
        self.mean = torch.tensor(card["mean"])[:, None, None]
        self.std = torch.tensor(card["std"])[:, None, None]

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        """See the class."""
        logits = self.network((tiles / 255 - self.mean) / self.std)
        if self.two:
            logits = logits[:, 1:] - logits[:, :1]
        return logits.sigmoid()
