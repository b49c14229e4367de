"""Checkpoints: safetensors throughout, so that nothing has to be unpickled.

A model is its weights with its card, as `predict` takes it. The state of a run is one more safetensors
file with the weights as they are trained, the averaged ones, the optimiser's tensors, and everything else
as JSON in its header. Each is written under another name and renamed: a kill leaves the last one whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from tilesegment.atomic import replacing
from tilesegment.errors import ModelError, OutputError
from tilesegment.model.card import Card
from tilesegment.model.store import save_model, usual_mode
from tilesegment.train.hard import Key

STATE = "state.safetensors"


@dataclass
class State:
    """What goes on from one step to the next, in plain values. epoch: of the next step, from 0; step:
    batches of it that are done; loss_sum, matrix: over them; history: a row an epoch; best: by metric;
    waited: epochs since the watched one got better; scores, hard: see `train.hard`, of the pictures so far,
    and what is seen again in this epoch."""

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    matrix: list[list[int]] = field(default_factory=list)
    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, float] = field(default_factory=dict)
    waited: int = 0
    scores: list[tuple[Key, float]] = field(default_factory=list)
    hard: list[Key] = field(default_factory=list)

    @classmethod
    def restored(cls, plain: Mapping[str, Any]) -> State:
        """As it was before JSON made lists of its keys."""
        scores = [(tuple(key), score) for key, score in plain.get("scores", ())]
        return cls(**{**plain, "scores": scores, "hard": [tuple(key) for key in plain.get("hard", ())]})


def save_weights(path: Path, network: nn.Module, card: Card) -> None:
    """A model file of a network. Raises OutputError."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    arrays = {name: tensor.numpy() for name, tensor in weights.items() if tensor.is_floating_point()}
    with _replacing(path) as temporary:
        save_model(temporary, arrays, card)


def save_state(
    path: Path,
    networks: Mapping[str, nn.Module | None],
    optimizer: Optimizer,
    plain: dict[str, Any],
) -> None:
    """Everything a run needs to go on. networks: by name; plain: what JSON holds. Raises OutputError."""
    tensors: dict[str, Tensor] = {}
    for name, network in networks.items():
        if network is not None:
            for key, tensor in network.state_dict().items():
                tensors[f"{name}/{key}"] = tensor.detach().cpu().clone().contiguous()
    state = optimizer.state_dict()
    scalars: dict[str, dict[str, Any]] = {}
    for number, entries in state["state"].items():
        for key, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{number}/{key}"] = value.detach().cpu().clone().contiguous()
            else:
                scalars.setdefault(str(number), {})[key] = value
    groups = [{k: v for k, v in group.items() if k != "params"} for group in state["param_groups"]]
    everything = {"plain": plain, "scalars": scalars, "groups": groups}
    with _replacing(path) as temporary, usual_mode(temporary):
        save_file(tensors, temporary, {"state": json.dumps(everything)})


def load_state(
    path: Path, networks: Mapping[str, nn.Module | None], optimizer: Optimizer
) -> dict[str, Any]:
    """Put a saved state into networks and optimiser; the plain values. Raises ModelError."""
    try:
        with safe_open(path, framework="pt") as file:
            saved = json.loads(file.metadata()["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path}: no state of a training run ({error})") from error
    for name, network in networks.items():
        if network is not None:
            part = {k.removeprefix(f"{name}/"): v for k, v in tensors.items() if k.startswith(f"{name}/")}
            try:
                network.load_state_dict(part)
            except RuntimeError as error:
                raise ModelError(
                    f"{path}: belongs to another network ({str(error).splitlines()[0]})"
                ) from error
    state = optimizer.state_dict()
    entries: dict[int, dict[str, Any]] = {int(k): dict(v) for k, v in saved["scalars"].items()}
    for name, tensor in tensors.items():
        if name.startswith("optimizer/"):
            _, number, key = name.split("/", 2)
            entries.setdefault(int(number), {})[key] = tensor
    groups = [{**group, **old} for group, old in zip(state["param_groups"], saved["groups"], strict=True)]
    optimizer.load_state_dict({"state": entries, "param_groups": groups})
    plain: dict[str, Any] = saved["plain"]
    return plain


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """As `replacing`; safetensors reports a full disk as an error of its own."""
    try:
        with replacing(path) as temporary:
            yield temporary
    except SafetensorError as error:
        raise OutputError(f"{path}: cannot be written ({error})") from error
