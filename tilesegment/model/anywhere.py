"""DeepLabV3 and DeepLabV3+ whose answer depends on a tile's rim, as far as convolutions reach, and not on
its size."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from tilesegment.errors import ModelError


class WindowAverage(nn.Module):
    """The mean over the window of features around each one, as far as it lies inside: (n, channels, rows,
    columns), same size. window: features, an odd number.

    Chen et al. 2017 (arXiv 1706.05587) average over the whole picture; a window as large as a training crop
    sees in every tile what it saw in training.
    """

    def __init__(self, window: int) -> None:
        super().__init__()
        self.window = window

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """The mean of rows, then of columns: the same as over both, in 2 instead of `window` x `window`
        steps a feature."""
        size, half = self.window, self.window // 2
        rows = functional.avg_pool2d(features, (size, 1), 1, (half, 0), count_include_pad=False)
        return functional.avg_pool2d(rows, (1, size), 1, (0, half), count_include_pad=False)


class _WindowPooling(nn.Sequential):
    """smp's pooling branch with the same weights, whose result has the features' size already."""


def answer_alike_anywhere(network: nn.Module, window: int) -> None:
    """Take what makes the answer depend on the tile out of a DeepLabV3 or DeepLabV3+ of
    segmentation-models-pytorch: pooling over the whole of it (now over windows), and enlarging by aligned
    corners, which puts the features of 16 pixels up to 6 pixels elsewhere in a tile of 512 than in one of
    256 (now by aligned pixels). What remains is the rim: zeros beyond it, as far as convolutions reach.

    Raises ModelError for another network or window.
    """
    if not isinstance(window, int) or window < 1 or window % 2 == 0:
        raise ModelError(f"pooling_window {window!r} is no odd number of features")
    branches = [
        (parent, name, branch)
        for parent in network.modules()
        for name, branch in parent.named_children()
        if type(branch).__name__ == "ASPPPooling"
    ]
    if len(branches) != 1:
        raise ModelError(f"pooling_window: {type(network).__name__} has no image pooling as DeepLabV3")
    parent, name, branch = branches[0]
    for module in network.modules():
        if isinstance(module, nn.Upsample):
            module.align_corners = False
    setattr(parent, name, _WindowPooling(WindowAverage(window), *list(branch.children())[1:]))
