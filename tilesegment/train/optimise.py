"""Optimisers and schedulers of torch by name, warm-up, averaged weights, and what learns nothing."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer, lr_scheduler
from torch.optim.swa_utils import AveragedModel

from tilesegment.errors import SettingsError
from tilesegment.settings import nearest
from tilesegment.train.config import NamedConfig, TrainConfig

# Their rates rise and fall within an epoch.
_BY_STEP = ("OneCycleLR", "CyclicLR")
# They ask for the loss several times a step, or for sparse gradients.
_UNFIT = ("LBFGS", "SparseAdam")


def make_optimizer(
    config: NamedConfig, network: nn.Module, encoder_rate: float = 1.0, layer_decay: float = 1.0
) -> Optimizer:
    """An optimiser of `torch.optim` by name. encoder_rate: the learning rate of the encoder's last block,
    times that of the rest; layer_decay: that of every block before, times the one after it (discriminative
    fine-tuning, Howard and Ruder 2018). Raises SettingsError for an unknown name or argument, or one that
    cannot serve."""
    known = {n: k for n, k in vars(torch.optim).items() if inspect.isclass(k) and issubclass(k, Optimizer)}
    if config.name in _UNFIT:
        raise SettingsError(f"optimizer: {config.name} cannot train networks of images; AdamW and SGD can")
    parameters = list(network.parameters())
    if encoder_rate == 1 and layer_decay == 1:
        return _optimizer(config, known, parameters)
    encoder = getattr(network, "encoder", None)
    if not isinstance(encoder, nn.Module):
        raise SettingsError(f"encoder_rate: {type(network).__name__} has no encoder of its own")
    inside = {id(parameter) for parameter in encoder.parameters()}
    made = _optimizer(config, known, [p for p in parameters if id(p) not in inside])
    rate = made.param_groups[0]["lr"] * encoder_rate
    blocks = [list(encoder.parameters())] if layer_decay == 1 else _blocks(encoder)
    for number, block in enumerate(reversed(blocks)):
        made.add_param_group({"params": block})
        made.param_groups[-1]["lr"] = rate * layer_decay**number
    return made


def _blocks(encoder: nn.Module) -> list[list[nn.Parameter]]:
    """The parameters of an encoder by block, in its order: `layer1.0`, or `stem` where there is no
    number."""
    found: dict[str, list[nn.Parameter]] = {}
    for name, parameter in encoder.named_parameters():
        parts = name.split(".")
        numbers = [k for k, part in enumerate(parts) if part.isdigit()]
        end = numbers[0] + 1 if numbers else 1
        # Numbers side by side are one: stage and block.
        while end < len(parts) and numbers and parts[end].isdigit():
            end += 1
        found.setdefault(".".join(parts[:end]), []).append(parameter)
    return list(found.values())


def _optimizer(config: NamedConfig, known: dict[str, Any], parameters: list[nn.Parameter]) -> Optimizer:
    made: Optimizer = _made("optimizer", config, known, (parameters,), {})
    return made


def _when(scheduler: NamedConfig) -> str:
    return scheduler.each or ("step" if scheduler.name in _BY_STEP else "epoch")


class Schedule:
    """The learning rate: a rise over the first steps, then a scheduler of `torch.optim.lr_scheduler`.

    Raises SettingsError for an unknown name or argument.
    """

    def __init__(self, config: TrainConfig, optimizer: Optimizer, steps: int) -> None:
        self._each = "epoch" if config.scheduler is None else _when(config.scheduler)
        self._warmup: lr_scheduler.LRScheduler | None = None
        self._main: Any = None
        if config.scheduler is not None:
            known = {n: k for n, k in vars(lr_scheduler).items() if inspect.isclass(k)}
            extra = {}
            length = config.epochs * (steps if self._each == "step" else 1)
            if config.scheduler.name == "CosineAnnealingLR" and "T_max" not in config.scheduler.options:
                extra = {"T_max": length}
            for name in ("encoder_rate", "layer_decay"):
                if getattr(config, name) != 1 and config.scheduler.name in _BY_STEP:
                    raise SettingsError(
                        f"{name}: {config.scheduler.name} gives all weights one rate; take another "
                        f"scheduler, or {name}=1"
                    )
            if config.scheduler.name == "OneCycleLR" and "total_steps" not in config.scheduler.options:
                extra = {"total_steps": steps * config.epochs + 1}
            self._main = _made("scheduler", config.scheduler, known, (optimizer,), extra)
        rising = round(config.warmup * steps)
        if rising:
            self._warmup = lr_scheduler.LinearLR(optimizer, 1e-3, 1.0, total_iters=rising)

    def after_step(self) -> None:
        """One step of the optimiser was taken."""
        if self._warmup is not None:
            self._warmup.step()
        if self._main is not None and self._each == "step":
            self._main.step()

    def after_epoch(self, loss: float) -> None:
        """An epoch is over, with this validation loss."""
        if self._main is None or self._each == "step":
            return
        if isinstance(self._main, lr_scheduler.ReduceLROnPlateau):
            self._main.step(loss)
        else:
            self._main.step()

    def state(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        parts = {"warmup": self._warmup, "main": self._main}
        return {name: _plain(part.state_dict()) for name, part in parts.items() if part is not None}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        for name, part in (("warmup", self._warmup), ("main", self._main)):
            if part is not None and name in state:
                part.load_state_dict(state[name])


def averaged(network: nn.Module, decay: float) -> AveragedModel | None:
    """The exponential moving average of a network's weights and statistics; None without a decay.

    Its memory grows with the steps taken, d = min(decay, (1 + n) / (10 + n)), so that the first weights are
    soon forgotten (as TensorFlow's ExponentialMovingAverage does with num_updates).
    """
    if not decay:
        return None

    def average(before: Tensor, now: Tensor, steps: Tensor | int) -> Tensor:
        if not before.is_floating_point():
            return now
        count = int(steps)
        return before.lerp(now, 1 - min(decay, (1 + count) / (10 + count)))

    return AveragedModel(network, avg_fn=average, use_buffers=True)


def freeze(network: nn.Module, parts: Sequence[str]) -> None:
    """Give parts of a network no gradients (see `config.FREEZE`). Raises SettingsError where there is no
    such part."""
    if "encoder" in parts:
        encoder = getattr(network, "encoder", None)
        if not isinstance(encoder, nn.Module):
            raise SettingsError(f"freeze encoder: {type(network).__name__} has no encoder of its own")
        encoder.requires_grad_(False)


def set_training(trained: nn.Module, network: nn.Module, frozen: Sequence[str]) -> None:
    """Put a network into training mode, but for what is frozen."""
    trained.train()
    if "encoder" in frozen:
        network.get_submodule("encoder").eval()
    if "statistics" in frozen:
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def _plain(state: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in state.items() if isinstance(v, int | float | str | list | bool | None)}


def _made(
    what: str, config: NamedConfig, known: dict[str, Any], first: tuple[Any, ...], extra: dict[str, Any]
) -> Any:
    kind = known.get(config.name)
    if kind is None:
        raise SettingsError(f"{what}: torch has no {config.name!r}{nearest(config.name, known)}")
    arguments = inspect.signature(kind.__init__).parameters
    for key in config.options:
        if key not in arguments:
            raise SettingsError(f"{what}: {config.name} has no argument {key!r}{nearest(key, arguments)}")
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in config.options.items()}
    try:
        return kind(*first, **options, **extra)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"{what}: {config.name}: {error}") from error
