"""One process, or one for each of several GPUs as `accelerate launch` starts them."""

from __future__ import annotations

import os
import sys
from typing import Any

from torch import Tensor, nn

from tilesegment.errors import SettingsError
from tilesegment.model.engines.torch import find_device
from tilesegment.train.config import TrainConfig


class Processes:
    """rank: this process's number; count: how many there are; device: its own."""

    def __init__(self, device: str) -> None:
        self.count = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = 0
        self._accelerator: Any = None
        if self.count > 1:
            try:
                from accelerate import Accelerator
            except ImportError as error:
                raise SettingsError(
                    "several processes need accelerate; pip install tilesegment[accelerate]"
                ) from error
            self._accelerator = Accelerator(cpu=device == "cpu")
            self.rank = int(self._accelerator.process_index)
            self.device = self._accelerator.device
        else:
            self.device = find_device(device)

    @property
    def is_first(self) -> bool:
        """Whether this process writes and speaks."""
        return self.rank == 0

    def prepared(self, network: nn.Module) -> nn.Module:
        """The network as it is trained: with gradients averaged over all processes."""
        if self._accelerator is None:
            return network
        wrapped: nn.Module = self._accelerator.prepare_model(network)
        return wrapped

    def total(self, values: Tensor) -> Tensor:
        """The sum over all processes."""
        if self._accelerator is None:
            return values
        summed: Tensor = self._accelerator.reduce(values.to(self.device), "sum")
        return summed

    def wait(self) -> None:
        """Until all processes are here."""
        if self._accelerator is not None:
            self._accelerator.wait_for_everyone()


def read_workers(config: TrainConfig) -> int:
    """Processes that read pictures: none on Windows, else one for every second core, eight at most."""
    if config.workers is not None:
        return config.workers
    return 0 if sys.platform == "win32" else min(8, (os.cpu_count() or 1) // 2)
