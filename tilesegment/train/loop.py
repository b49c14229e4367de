"""The training loop, from the first epoch or from where a killed run stopped.

What happens is a function of the seed: pictures and their augmentation follow from seed, epoch and index,
dropout from seed, epoch and step. A run that goes on from its saved state therefore ends with the same
weights, bit for bit on a CPU with the same number of threads, as one that was never stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tilesegment.datasets.sample import Reader
from tilesegment.errors import InputError, TrainingError
from tilesegment.evaluate.pixels import Confusion
from tilesegment.model.build import padded_logits
from tilesegment.model.card import Card
from tilesegment.model.store import RUN_BEST
from tilesegment.train.augment import Augment
from tilesegment.train.batches import (
    Batches,
    FixedData,
    TrainingData,
    batches_of,
    epoch_batches,
    loader,
    views,
)
from tilesegment.train.checkpoint import STATE, State, load_state, save_state, save_weights
from tilesegment.train.config import TrainConfig
from tilesegment.train.counting import count, found_classes, shares_of
from tilesegment.train.hard import Key, hardest, scores_of, seen_again
from tilesegment.train.losses import Loss, class_weights
from tilesegment.train.mixstyle import mix_styles
from tilesegment.train.optimise import Schedule, averaged, freeze, make_optimizer, set_training
from tilesegment.train.precision import autocast, choose_precision, keep_grouped_in_float32, keep_memory
from tilesegment.train.processes import Processes, read_workers
from tilesegment.train.report import Status, epoch_line

BEST, BEST_LOSS, LAST = RUN_BEST, "best_loss.safetensors", "last.safetensors"


class Trainer:
    """One run. say: is given every epoch's line and the rows so far; progress: every batch's status.

    Raises SettingsError, InputError or ModelError before anything is trained.
    """

    def __init__(
        self,
        config: TrainConfig,
        reader: Reader,
        network: nn.Module,
        card: Card,
        folder: Path,
        processes: Processes,
        say: Callable[[str, list[dict[str, float]]], None] = lambda line, history: None,
        progress: Callable[[Status], None] = lambda status: None,
    ) -> None:
        self.config, self.reader, self.card, self.folder = config, reader, card, folder
        self._say, self._progress = say, progress
        self._processes = processes
        self.device = self._processes.device
        torch.manual_seed(config.seed)
        self.network = network.to(self.device).to(memory_format=torch.channels_last)
        self.precision = choose_precision(config.precision, self.device)
        if self.device.type == "cpu":
            keep_memory()
            if self.precision == "bf16":
                keep_grouped_in_float32(self.network)
        freeze(self.network, config.freeze)
        self._trained = self._processes.prepared(self.network)
        self.averaged = averaged(self.network, config.ema)
        mix_styles(self.network, config.mixstyle)
        self._classes = max(2, len(card.classes))
        weights = class_weights(config, reader, self._classes)
        self._loss = Loss(config.loss, len(card.classes), weights).to(self.device)
        self._optimizer = make_optimizer(
            config.optimizer, self.network, config.encoder_rate, config.layer_decay
        )
        steps = math.ceil(len(self._keys(len(reader.names("train")), 0)) / config.accumulate)
        self._schedule = Schedule(config, self._optimizer, steps)
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        augment = Augment(config.augment, config.data.size, config.data.fit)
        self.training = TrainingData(reader, augment, card, config.seed)
        self._feeds: dict[str, Any] = {}
        if not len(reader.names("val")):
            raise InputError("the validation split is empty; see data.split")
        self.state = State()
        self._saved = time.monotonic()

    @property
    def is_first(self) -> bool:
        """Whether this process writes and speaks."""
        return self._processes.is_first

    @property
    def evaluated(self) -> nn.Module:
        """The network whose metrics count: the averaged one where there is one."""
        return self.network if self.averaged is None else self.averaged.module

    def resume(self) -> None:
        """Go on from the folder's saved state. Raises ModelError where it cannot be read."""
        plain = load_state(self.folder / STATE, self._networks(), self._optimizer)
        self.state = State.restored(plain["state"])
        self._schedule.restore(plain["schedule"])
        if plain["scaler"]:
            self._scaler.load_state_dict(plain["scaler"])

    def fit(self) -> None:
        """Train to the last epoch, or until nothing gets better any more.

        Raises TrainingError where the loss is no number any more or memory is short, OutputError where the
        disk is full; what was saved before stays.
        """
        workers = read_workers(self.config)
        batches = Batches()
        feed = loader(self.training, batches, workers, self.device.type == "cuda")
        try:
            while self.state.epoch < self.config.epochs and not self._is_exhausted():
                self._train_epoch(feed, batches)
                self._end_epoch()
        except torch.OutOfMemoryError:
            raise TrainingError(
                f"out of memory on {self.device} with batch {self.config.batch}; begin again with --set "
                f"batch={max(1, self.config.batch // 2)} --set accumulate={2 * self.config.accumulate}"
            ) from None

    def evaluate(self, split: str) -> tuple[float, Confusion]:
        """Mean loss and confusion of a split."""
        network = self.evaluated.eval()
        sums = np.zeros(3)
        matrix = np.zeros((self._classes, self._classes), np.int64)
        with torch.inference_mode():
            for values, label in batches_of(self._fixed_feed(split)):
                values, label = self._moved(values), label.to(self.device)
                with self._autocast():
                    logits = padded_logits(network, values).float()
                sums += [float(self._loss(logits, label)) * len(values), len(values), 0]
                counted, squared = self._count(logits, label)
                matrix += counted
                sums[2] += squared
        total = self._processes.total(torch.tensor([*sums, *matrix.ravel()], dtype=torch.float64))
        loss_sum, seen, squared_sum, *cells = total.tolist()
        confusion = Confusion(self._classes)
        confusion.add(np.array(cells).round().astype(np.int64).reshape(matrix.shape), squared_sum)
        return loss_sum / max(1.0, seen), confusion

    def classes_of(self, values: Tensor) -> NDArray[np.uint8]:
        """The classes of one picture's tensor (bands, rows, columns): uint8 (rows, columns)."""
        with torch.inference_mode(), self._autocast():
            logits = padded_logits(self.evaluated.eval(), self._moved(values[None])).float()[0]
            logits = logits[: len(self.card.classes)]
        return np.asarray(found_classes(shares_of(logits[None]), self.card.threshold)[0].cpu(), np.uint8)

    def _count(self, logits: Tensor, label: Tensor) -> tuple[NDArray[np.int64], float]:
        of_classes = label[:, 0] if self.card.contact else label
        logits = logits[:, : len(self.card.classes)]
        return count(logits, of_classes, self._classes, self.card.threshold)

    def _keys(self, size: int, epoch: int) -> list[list[Key]]:
        """The batches of this process in an epoch, as many as every other one has."""
        keys: list[list[Key]] = [*epoch_batches(size, self.config.batch, self.config.seed, epoch)]  # type: ignore[list-item]
        while len(keys) % self._processes.count:
            keys.append(keys[len(keys) % self._processes.count])
        return keys[self._processes.rank :: self._processes.count]

    def _fixed_feed(self, split: str) -> Any:
        """This process's share of a split's batches, in order; its readers live as long as the run."""
        if split not in self._feeds:
            config, batches = self.config, Batches()
            size, fit = config.data.size, config.data.fit
            chosen = views(self.reader, split, size, fit)
            starts = range(0, len(chosen), config.batch)
            keys = [list(range(i, min(i + config.batch, len(chosen)))) for i in starts]
            batches.keys = keys[self._processes.rank :: self._processes.count]
            data = FixedData(self.reader, split, chosen, size, fit, self.card)
            workers = min(read_workers(config), len(batches))
            self._feeds[split] = loader(data, batches, workers, self.device.type == "cuda")
        return self._feeds[split]

    def _train_epoch(self, feed: Any, batches: Batches) -> None:
        state, config = self.state, self.config
        keys = seen_again(self._keys(len(self.reader.names("train")), state.epoch), state.hard, config.seed)
        confusion = Confusion(self._classes)
        if state.matrix:
            confusion.add(np.array(state.matrix, np.int64))
        batches.keys = keys[state.step :]
        set_training(self._trained, self.network, config.freeze)
        self._optimizer.zero_grad()
        begin, images = time.monotonic(), 0
        for values, label in batches_of(feed):
            # Dropout must not depend on what was run before.
            torch.manual_seed(_mixed(config.seed, state.epoch, state.step))
            values, label = self._moved(values), label.to(self.device, non_blocking=True)
            with self._autocast():
                logits = self._forward(values)
            loss = self._loss(logits, label)
            value = float(loss.detach())
            if not math.isfinite(value):
                raise TrainingError(
                    f"the loss is {value} in epoch {state.epoch + 1}, batch {state.step + 1}; what was "
                    f"saved is kept: lower optimizer.lr or set clip, and --set model.start={self.folder}"
                )
            # The last batches of an epoch may be fewer.
            first = state.step - state.step % config.accumulate
            self._scaler.scale(loss / min(config.accumulate, len(keys) - first)).backward()
            if config.hard_share:
                self._note_scores(keys[state.step], logits.detach(), label)
            state.step += 1
            if state.step % config.accumulate == 0 or state.step == len(keys):
                self._step()
            counted, _ = self._count(logits.detach().float(), label)
            confusion.add(counted)
            state.loss_sum += value
            images += len(values)
            speed = images / max(1e-9, time.monotonic() - begin)
            iou = confusion.summary()["iou"]
            self._progress(
                Status(
                    state.epoch + 1,
                    config.epochs,
                    state.step,
                    len(keys),
                    state.loss_sum / state.step,
                    iou,
                    speed,
                )
            )
            whole_step = state.step % config.accumulate == 0 and state.step < len(keys)
            if whole_step and time.monotonic() - self._saved > 60 * config.save_minutes:
                state.matrix = confusion.matrix.tolist()
                self._save()
        state.matrix = confusion.matrix.tolist()

    def _note_scores(self, keys: list[Key], logits: Tensor, label: Tensor) -> None:
        of_classes = label[:, 0] if self.card.contact else label
        logits = logits[:, : len(self.card.classes)].float()
        scores = scores_of(logits, of_classes, self.card.threshold)
        self.state.scores += zip(keys, scores, strict=True)

    def _forward(self, values: Tensor) -> Tensor:
        try:
            logits = padded_logits(self._trained, values)
        except ValueError as error:
            if "more than 1 value per channel" in str(error):
                raise TrainingError(
                    f"{self.card.architecture} cannot train on batches of one (batch normalisation); use "
                    "--set batch=2"
                ) from error
            raise
        return logits

    def _step(self) -> None:
        if self.config.clip:
            self._scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad()
        self._schedule.after_step()
        if self.averaged is not None:
            self.averaged.update_parameters(self.network)

    def _end_epoch(self) -> None:
        state = self.state
        training = Confusion(self._classes, matrix=np.array(state.matrix, np.int64))
        train_loss = state.loss_sum / max(1, state.step)
        rate = float(self._optimizer.param_groups[0]["lr"])
        loss, confusion = self.evaluate("val")
        summary = confusion.summary()
        self._schedule.after_epoch(loss)
        row = {
            "epoch": state.epoch + 1,
            "lr": rate,
            "train_loss": train_loss,
            "train_iou": training.summary()["iou"],
            "val_loss": loss,
            **{f"val_{name}": value for name, value in summary.items()},
        }
        state.history.append(row)
        state.epoch, state.step, state.loss_sum, state.matrix = state.epoch + 1, 0, 0.0, []
        state.hard, state.scores = hardest(state.scores, self.config.hard_share), []
        better = self._note_best(row)
        if self._processes.is_first:
            card = self._card_with(row)
            for name, file in (("iou", BEST), ("loss", BEST_LOSS)):
                if name in better:
                    save_weights(self.folder / file, self.evaluated, card)
            save_weights(self.folder / LAST, self.evaluated, card)
            self._say(epoch_line(row, self.config.epochs), state.history)
        self._save()

    def _note_best(self, row: dict[str, float]) -> set[str]:
        """Which metrics this epoch improved."""
        state, better = self.state, set()
        for name, value in (("iou", row["val_iou"]), ("loss", -row["val_loss"])):
            # The first epoch is the best so far, even where no pixel says how good it is.
            known = state.best.get(name)
            if known is None or (not math.isnan(value) and (math.isnan(known) or value > known)):
                state.best[name] = value
                better.add(name)
        state.waited = 0 if self.config.watch in better else state.waited + 1
        return better

    def _is_exhausted(self) -> bool:
        return bool(self.config.patience) and self.state.waited >= self.config.patience

    def _card_with(self, row: dict[str, float]) -> Card:
        metrics = {k: round(v, 5) for k, v in row.items() if not math.isnan(v)}
        return replace(self.card, metrics=metrics)

    def _networks(self) -> dict[str, nn.Module | None]:
        return {"network": self.network, "averaged": self.averaged}

    def _save(self) -> None:
        if self._processes.is_first:
            plain = {
                "state": asdict(self.state),
                "schedule": self._schedule.state(),
                "scaler": self._scaler.state_dict(),
            }
            save_state(self.folder / STATE, self._networks(), self._optimizer, plain)
        self._saved = time.monotonic()
        self._processes.wait()

    def _moved(self, values: Tensor) -> Tensor:
        return values.to(self.device, memory_format=torch.channels_last, non_blocking=True)

    def _autocast(self) -> AbstractContextManager[object]:
        return autocast(self.precision, self.device)


def _mixed(seed: int, epoch: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, epoch, step]).generate_state(1)[0])
