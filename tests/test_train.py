"""Training: the loop, its parts, and every system end to end on small data in its real layout."""

from __future__ import annotations

import copy
import csv
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open
from torch import nn

import tilesegment
from tests import layouts
from tests.fakes import fake_card
from tilesegment.cli.train import command as train_command
from tilesegment.datasets.opening import open_reader
from tilesegment.datasets.sample import IGNORE, Sample
from tilesegment.errors import (
    InputError,
    ModelError,
    OutputError,
    SettingsError,
    TilesegmentError,
    TrainingError,
)
from tilesegment.evaluate.pixels import Confusion
from tilesegment.model.build import build_network, padded_logits
from tilesegment.model.preprocess import ValueRange, normalise
from tilesegment.model.store import find_model, read_weights
from tilesegment.raster.source import open_scene
from tilesegment.raster.values import value_range
from tilesegment.train import loop
from tilesegment.train.augment import Augment
from tilesegment.train.batches import Batches, TrainingData, epoch_batches, to_tensors
from tilesegment.train.config import NamedConfig, bundled_configs, load_config, parse_config, plain
from tilesegment.train.counting import count
from tilesegment.train.loop import Trainer
from tilesegment.train.losses import LOSSES, Loss, class_weights
from tilesegment.train.optimise import Schedule, averaged, freeze, make_optimizer, set_training
from tilesegment.train.precision import keep_grouped_in_float32
from tilesegment.train.processes import Processes
from tilesegment.train.run import Listener, make_card, run_training
from tilesegment.train.start import changes_from

SMALL = [
    "epochs=2", "batch=3", "data.size=[64, 64]", "model.encoder=resnet18", "model.encoder_weights=null",
    "workers=0", "precision=fp32",
]  # fmt: skip


PICTURES = {
    "rooftop": "images/images/*.tif", "places": "images/*.tif", "cityscapes": "*_leftImg8bit.png",
    "voc": "*.jpg", "coco": "*.jpg", "camvid": "train/*.png",
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root: Path = tmp_path_factory.mktemp("data")
    layouts.rooftops(root / "rooftop", 10, 64)
    for place in "ab":
        layouts.rooftops(root / "places" / place, 4, 96, nested=False)
    layouts.cityscapes(root / "cityscapes", 4)
    layouts.voc(root / "voc")
    layouts.coco(root / "coco", 3)
    layouts.camvid(root / "camvid", count=3)
    return root


def trained(
    name: str, data: Path, folder: Path, *changes: str, **options: Any
) -> tuple[dict, list[str], list[str]]:
    """The result, the epochs' lines and the notes."""
    lines: list[str] = []
    notes: list[str] = []
    listener = Listener(line=lines.append, note=notes.append)
    result = run_training(load_config(name, [*SMALL, *changes]), data, folder, listener=listener, **options)
    return result, lines, notes


class TestConfigs:
    def test_the_five_systems_say_exactly_what_they_must(self) -> None:
        rooftop = load_config("rooftop")
        assert (rooftop.model.architecture, rooftop.model.encoder) == ("DeepLabV3Plus", "resnet50")
        assert rooftop.model.encoder_weights == "imagenet"
        assert rooftop.data.size == (256, 256)
        assert (rooftop.batch, rooftop.epochs, rooftop.patience, rooftop.clip) == (32, 50, 10, 1.0)
        assert rooftop.loss == {"cross_entropy": 0.6, "dice": 0.4}
        assert rooftop.optimizer.name == "AdamW"
        assert rooftop.optimizer.options == {"lr": 1e-3, "weight_decay": 1e-4}
        assert rooftop.scheduler is not None
        assert rooftop.scheduler.name == "ReduceLROnPlateau"
        assert rooftop.scheduler.options == {"factor": 0.5, "patience": 5, "min_lr": 1e-6}
        assert rooftop.data.options["split"] == {"train": 0.9, "val": 0.05, "test": 0.05}
        urban = load_config("urban")
        assert (urban.model.encoder, urban.data.size, urban.epochs) == ("resnet101", (512, 1024), 20)
        assert urban.data.options == {"labels": "color", "classes": 30}
        assert urban.optimizer.name == "Adam"
        voc = load_config("voc2012")
        assert (voc.model.encoder, voc.batch, voc.epochs) == ("mobilenet_v2", 4, 5)
        assert voc.patience > 0
        binary = load_config("urban-binary")
        assert (binary.model.architecture, binary.epochs, binary.loss) == ("Unet", 15, {"bce": 1.0})
        assert {"car", "person"} <= set(binary.data.options["foreground"])
        for name in ("coco-binary", "coco-multiclass"):
            coco = load_config(name)
            assert (coco.model.architecture, coco.model.encoder) == ("DeepLabV3", "resnet101")
            assert coco.data.size == (520, 520)
            assert coco.model.start == "coco"
        assert load_config("camvid").data.size == (360, 480)

    def test_nothing_is_done_that_was_not_asked_for(self) -> None:
        least = {
            "name": "x",
            "data": {"reader": "rooftop-tiles", "size": [64, 64]},
            "model": {"architecture": "Unet", "encoder": "resnet18"},
            "loss": {"dice": 1.0},
            "optimizer": {"name": "Adam", "lr": 1e-3},
            "epochs": 1,
            "batch": 2,
        }
        plainest = parse_config(least, "x")
        for name, value in (
            ("ema", 0), ("warmup", 0), ("accumulate", 1), ("clip", 0), ("encoder_rate", 1), ("patience", 0),
            ("scheduler", None), ("class_weights", None), ("tensorboard", False), ("precision", "auto"),
        ):  # fmt: skip
            assert getattr(plainest, name) == value, name

    @pytest.mark.parametrize("name", sorted(bundled_configs()))
    def test_what_a_run_folder_holds_reads_back(self, name: str) -> None:
        config = load_config(name)
        again = parse_config(yaml.safe_load(yaml.safe_dump(plain(config))), "x")
        assert again == config

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ("epoch=2", "unknown key epoch; did you mean 'epochs'"),
            ("model.encodr=x", "unknown key model.encodr; did you mean 'encoder'"),
            ("epochs=many", "epochs cannot be 'many'"),
            ("epochs=0", "must be at least 1"),
            ("data.size=[64]", r"data.size cannot be \[64\]"),
            ("loss.dice=much", "loss.dice cannot be 'much'"),
            ("precision=fp8", "precision 'fp8' is none of"),
            ("epochs", "write key=value"),
            ("ema=1.5", "ema 1.5 is not between"),
        ],
    )
    def test_wrong_changes(self, change: str, message: str) -> None:
        with pytest.raises(SettingsError, match=message):
            load_config("rooftop", [change])

    def test_numbers_as_people_write_them(self) -> None:
        assert load_config("rooftop", ["optimizer.lr=1e-3"]).optimizer.options["lr"] == 0.001

    def test_a_file_of_ones_own(self, tmp_path: Path) -> None:
        path = tmp_path / "mine.yaml"
        path.write_text(bundled_configs()["rooftop"].read_text() + "\nsneed: 3\n")
        with pytest.raises(SettingsError, match="unknown key sneed; did you mean 'seed'"):
            load_config(str(path))
        with pytest.raises(SettingsError, match="did you mean 'rooftop'"):
            load_config("roooftop")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ("optimizer.name=Adamm", "optimizer: torch has no 'Adamm'; did you mean 'Adam'"),
            ("optimizer.learning_rate=1", "optimizer: AdamW has no argument 'learning_rate'"),
            ("scheduler.factr=1", "scheduler: ReduceLROnPlateau has no argument 'factr'; did you mean"),
            ("loss={cross_entropie: 1}", "no loss is called 'cross_entropie'; did you mean"),
            ("loss={bce: 1, cross_entropy: 1}", "exclude|one channel"),
            ("augment=[{HorizontalFlipp: {}}]", "no transform is called 'HorizontalFlipp'"),
            ("augment=[{HorizontalFlip: {q: 1}}]", "HorizontalFlip has no argument 'q'"),
            ("class_weights={rof: 2}", "class_weights: 'rof' is no class; did you mean 'roof'"),
            ("data.splits={}", "has no option 'splits'; did you mean 'split'"),
        ],
    )
    def test_wrong_names_are_refused_before_training(
        self, data, tmp_path, change: str, message: str
    ) -> None:
        with pytest.raises(SettingsError, match=message):
            trained("rooftop", data / "rooftop", tmp_path / "r", change)


class TestBatches:
    @given(st.integers(1, 70), st.integers(1, 9), st.integers(0, 5))
    def test_every_picture_once_and_no_batch_of_one(self, count: int, size: int, epoch: int) -> None:
        found = epoch_batches(count, size, 3, epoch)
        indices = sorted(index for batch in found for _, index in batch)
        assert indices == (list(range(count)) if count > 1 else [0, 1])
        if size > 1:
            assert min(map(len, found)) >= 2
        assert all(e == epoch for batch in found for e, _ in batch)

    def test_the_order_depends_on_seed_and_epoch(self) -> None:
        orders = [
            str(epoch_batches(30, 4, seed, epoch)) for seed, epoch in ((0, 0), (0, 1), (1, 0), (0, 0))
        ]
        assert len(set(orders)) == 3

    def test_an_empty_split_is_an_error(self) -> None:
        with pytest.raises(InputError, match="the training split is empty"):
            epoch_batches(0, 4, 0, 0)


class TestAugment:
    steps = (
        {"Affine": {"rotate": [-180, 180], "scale": [0.6, 1.5], "p": 1.0}},
        {"HorizontalFlip": {"p": 0.5}},
        {"ColorJitter": {"p": 1.0}},
    )

    def sample(self) -> Sample:
        rng = np.random.default_rng(0)
        label = layouts.scene(rng, 90, 110, [0, 1]).astype(np.uint8)
        valid = np.ones(label.shape, bool)
        valid[:20] = False
        return Sample(layouts.photograph(rng, label).transpose(2, 0, 1), label, valid)

    def test_the_same_seed_gives_the_same_sample(self) -> None:
        augment = Augment(self.steps, (64, 48), "crop")
        one, other, same = (augment(self.sample(), seed) for seed in (1, 2, 1))
        assert one.values.shape == (3, 64, 48)
        np.testing.assert_array_equal(one.values, same.values)
        np.testing.assert_array_equal(one.label, same.label)
        assert not np.array_equal(one.values, other.values)

    def test_what_comes_in_from_outside_is_invalid_and_ignored(self) -> None:
        augment = Augment([{"Affine": {"rotate": [45, 45], "p": 1.0}}], (160, 160), "crop")
        found = augment(self.sample(), 0)
        assert (found.label[~found.valid & (found.label != IGNORE)] <= 1).all()
        corner = to_tensors(found, find_model("roofs").card)
        # The bundled model learns the classes and the contact: neither counts there.
        assert corner[1].shape[0] == 2
        assert (corner[1][:, torch.from_numpy(~found.valid)] == IGNORE).all()
        assert (corner[0][:, torch.from_numpy(~found.valid)] == 0).all()
        assert 0 < found.valid.mean() < 0.5


@pytest.mark.parametrize("size", [(24, 40), (30, 61), (130, 200)])
def test_a_resized_picture_is_the_same_in_training_and_prediction(tmp_path: Path, size: tuple) -> None:
    rng = np.random.default_rng(4)
    values = rng.integers(0, 255, (3, 96, 160)).astype(np.uint8)
    layouts.save(tmp_path / "p.png", values.transpose(1, 2, 0))
    label = rng.integers(0, 2, (96, 160)).astype(np.uint8)
    sample = Sample(values, label, np.ones(label.shape, np.bool_))
    found = Augment([], size, "resize")(sample, 5)
    with open_scene(tmp_path / "p.png", size=size) as scene:
        read = scene.read(scene.grid.window).values
    assert found.label.shape == size
    # To a grey level at the pixels of which a half lies in two cells.
    difference = np.abs(found.values.astype(int) - read)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.03


def test_what_a_transform_scales_stays_scaled() -> None:
    """A square of 20 pixels in 60 becomes one of 30 where everything is half as large again."""
    label = np.zeros((60, 60), np.uint8)
    label[20:40, 20:40] = 1
    sample = Sample(np.repeat(label[None] * 200, 3, axis=0), label, np.ones((60, 60), np.bool_))
    for limit, side in ((0.5, 30), (-0.5, 10), (0.0, 20)):
        step = {"RandomScale": {"scale_limit": [limit, limit], "p": 1.0}}
        found = [Augment([step], (60, 60), "resize")(sample, seed).label for seed in range(6)]
        assert all(part.shape == (60, 60) for part in found)
        assert max(int((part == 1).sum()) for part in found) == pytest.approx(side**2, rel=0.1)
        # What is missing is unknown, and no background.
        assert any((part == IGNORE).any() for part in found) == (limit < 0)


def test_training_and_prediction_see_the_same_tensor(data: Path) -> None:
    config = load_config("rooftop", SMALL)
    reader = open_reader("rooftop-tiles", data / "rooftop", config.data.options)
    card = make_card(config, reader)
    sample = reader.read("train", 0, None)
    with tilesegment.open_scene(
        data / "rooftop/images/images" / f"{reader.names('train')[0]}.tif"
    ) as scene:
        pixels = scene.read(scene.grid.window)
    predicted = normalise(pixels.values, pixels.valid, ValueRange.of_all((0.0, 255.0), 3), card)
    np.testing.assert_array_equal(to_tensors(sample, card)[0].numpy(), predicted)


@pytest.mark.parametrize(("dtype", "factor"), [("uint16", 40.0), ("float32", 1 / 255), ("int16", 20.0)])
def test_any_type_of_picture_is_learnt_and_predicted_alike(
    tmp_path: Path, dtype: str, factor: float
) -> None:
    """The same tensor as in prediction, augmented ones in the same range; and the model knows its type."""
    root = tmp_path / "data"
    rng = np.random.default_rng(1)
    for k in range(6):
        label = layouts.scene(rng, 64, 64, [0, 1])
        picture = (layouts.photograph(rng, label).transpose(2, 0, 1) * factor).astype(dtype)
        layouts.save_tif(root / "images" / f"{k}.tif", picture)
        layouts.save_tif(root / "masks" / f"{k}.tif", (label * 255).astype(np.uint8)[None])
    _, _, notes = trained("rooftop", root, tmp_path / "r", "epochs=1")
    assert any(note.startswith(f"the pictures are {dtype}: ") for note in notes)
    card = find_model(str(tmp_path / "r")).card
    assert card.dtype == dtype
    reader = open_reader("rooftop-tiles", root, {})
    sample = reader.read("train", 0, None)
    with tilesegment.open_scene(root / "images" / f"{reader.names('train')[0]}.tif") as scene:
        found = value_range(scene, None, card.dtype, card.value_range)
        pixels = scene.read(scene.grid.window)
    predicted = normalise(pixels.values, pixels.valid, found, card)
    np.testing.assert_array_equal(to_tensors(sample, card)[0].numpy(), predicted)
    plain = TrainingData(reader, Augment([], (64, 64), "crop"), card, 0)[(0, 0)][0].numpy()
    np.testing.assert_allclose(plain, predicted, atol=1e-5)
    assert predicted.std() > 0.5


class TestLosses:
    @pytest.mark.parametrize("name", LOSSES)
    def test_ignored_pixels_do_not_count_and_right_answers_cost_less(self, name: str) -> None:
        channels = 1 if name == "bce" else 3
        label = torch.randint(0, max(2, channels), (2, 8, 8), generator=torch.Generator().manual_seed(0))
        if channels == 1:
            right = (label[:, None] * 2 - 1) * 6.0
        else:
            right = torch.nn.functional.one_hot(label, 3).permute(0, 3, 1, 2) * 12.0 - 6
        loss = Loss({name: 1.0}, channels)
        assert float(loss(right, label)) < 0.1 < float(loss(-right, label))
        masked, disturbed = label.clone(), right.clone()
        masked[:, :4] = IGNORE
        disturbed[:, :, :4] *= -1
        torch.testing.assert_close(loss(right, masked), loss(disturbed, masked))

    def test_nothing_known_is_no_loss_and_no_nan(self) -> None:
        logits = torch.zeros(1, 2, 4, 4, requires_grad=True)
        value = Loss({"cross_entropy": 0.6, "dice": 0.4}, 2)(logits, torch.full((1, 4, 4), IGNORE))
        value.backward()
        assert float(value.detach()) == 0
        assert logits.grad is not None
        assert not logits.grad.any()

    def test_a_sum_is_the_sum(self) -> None:
        logits, label = torch.randn(2, 2, 6, 6), torch.randint(0, 2, (2, 6, 6))
        parts = [Loss({name: 1.0}, 2)(logits, label) for name in ("cross_entropy", "dice")]
        both = Loss({"cross_entropy": 0.6, "dice": 0.4}, 2)(logits, label)
        torch.testing.assert_close(both, 0.6 * parts[0] + 0.4 * parts[1])

    def test_contact_has_a_channel_of_its_own(self) -> None:
        logits, label = torch.randn(2, 3, 6, 6), torch.randint(0, 2, (2, 6, 6))
        contact = torch.randint(0, 2, (2, 6, 6))
        contact[:, :3] = IGNORE
        found = Loss({"cross_entropy": 0.6, "contact": 0.5}, 2)(logits, torch.stack([label, contact], 1))
        known, truth = logits[:, 2, 3:].flatten(), contact[:, 3:].flatten().float()
        p = known.sigmoid()
        entropy = -(truth * p.log() + (1 - truth) * (1 - p).log()).mean()
        dice = 1 - (2 * (p * truth).sum() + 1) / (p.sum() + truth.sum() + 1)
        expected = 0.6 * torch.nn.functional.cross_entropy(logits[:, :2], label) + 0.25 * (entropy + dice)
        torch.testing.assert_close(found, expected)
        unknown = torch.full_like(contact, IGNORE)
        torch.testing.assert_close(
            Loss({"cross_entropy": 0.6, "contact": 0.5}, 2)(logits, torch.stack([label, unknown], 1)),
            0.6 * torch.nn.functional.cross_entropy(logits[:, :2], label),
        )

    def test_focal_tversky_by_hand(self) -> None:
        """Of each class TP / (TP + .3 FP + .7 FN) from probabilities; (1 - their mean) ** .75."""
        logits = torch.tensor([[[[0.0, 0.0], [0.0, 0.0]], [[2.0, -1.0], [0.5, -3.0]]]])
        label = torch.tensor([[[1, 1], [0, 0]]])
        p = logits[0, 1].sigmoid().flatten()
        indices = []
        for hit, false, missed in (
            (p[0] + p[1], p[2] + p[3], 2 - p[0] - p[1]),
            (2 - p[2] - p[3], 2 - p[0] - p[1], p[2] + p[3]),
        ):
            indices.append(hit / (hit + 0.3 * false + 0.7 * missed))
        expected = (1 - (indices[0] + indices[1]) / 2) ** 0.75
        torch.testing.assert_close(Loss({"focal_tversky": 1.0}, 2)(logits, label), expected)

    def test_class_weights(self, data: Path) -> None:
        reader = open_reader("rooftop-tiles", data / "rooftop", {})
        config = load_config("rooftop", ["class_weights=auto"])
        weights = class_weights(config, reader, 2)
        assert weights is not None
        labels = np.concatenate([reader.read("train", k, None).label.ravel() for k in range(8)])
        share = np.bincount(labels, minlength=2) / labels.size
        np.testing.assert_allclose(weights.numpy(), 1 / (2 * share), rtol=1e-5)
        assert float((weights.numpy() * share).sum()) == pytest.approx(1)
        named = class_weights(dataclasses.replace(config, class_weights={"roof": 3.0}), reader, 2)
        assert named is not None
        assert named.tolist() == [1.0, 3.0]


class TestMetrics:
    @given(st.integers(0, 2**32 - 1), st.integers(2, 5))
    @settings(max_examples=30)
    def test_they_are_what_counting_by_hand_gives(self, seed: int, classes: int) -> None:
        rng = np.random.default_rng(seed)
        truth, found = rng.integers(0, classes, (2, 200))
        confusion = Confusion(classes)
        matrix = np.zeros((classes, classes), np.int64)
        np.add.at(matrix, (truth, found), 1)
        confusion.add(matrix)
        for k in range(classes):
            both, either = ((truth == k) & (found == k)).sum(), ((truth == k) | (found == k)).sum()
            assert confusion.iou[k] == pytest.approx(both / either if either else np.nan, nan_ok=True)
            sizes = (truth == k).sum() + (found == k).sum()
            assert confusion.dice[k] == pytest.approx(2 * both / sizes if sizes else np.nan, nan_ok=True)
        assert confusion.summary()["accuracy"] == pytest.approx((truth == found).mean())

    @pytest.mark.parametrize("channels", [1, 2, 4])
    def test_counting_logits(self, channels: int) -> None:
        classes = max(2, channels)
        generator = torch.Generator().manual_seed(1)
        logits = torch.randn(2, channels, 7, 5, generator=generator)
        label = torch.randint(0, classes, (2, 7, 5), generator=generator)
        label[0, 0] = IGNORE
        matrix, squared = count(logits, label, classes)
        if channels == 1:
            p = logits[:, 0].sigmoid()
            probability = torch.stack([1 - p, p], dim=1)
        else:
            probability = logits.softmax(dim=1)
        known = label != IGNORE
        truth = torch.nn.functional.one_hot(label.clamp(max=classes - 1), classes).permute(0, 3, 1, 2)
        expected = ((probability - truth) ** 2).sum(dim=1)[known].sum()
        assert squared == pytest.approx(float(expected), rel=1e-5)
        assert matrix.sum() == int(known.sum())
        assert np.trace(matrix) == int((probability.argmax(dim=1) == label)[known].sum())


class TestSystems:
    @pytest.mark.parametrize(
        ("name", "folder", "changes"),
        [
            ("rooftop", "rooftop", ["ema=0.9", "accumulate=2", "warmup=1", "tensorboard=true"]),
            (
                "roofs",
                "places",
                [
                    "data.places=null",
                    "data.split={val: [b]}",
                    "data.crops=6",
                    "data.weights=null",
                    "data.instances={a: mask}",
                    "augment=[{CenterCrop: {height: 64, width: 64}}, {D4: {p: 1.0}}]",
                    "data.metres={a: 0.15, b: 0.2}",
                ],
            ),
            ("urban", "cityscapes", ["batch=2"]),
            ("urban-binary", "cityscapes", ["batch=2"]),
            ("voc2012", "voc", []),
            ("camvid", "camvid", ["batch=2", "data.size=[40, 56]"]),
            ("coco-binary", "coco", ["batch=2", "model.start=null"]),
            ("coco-multiclass", "coco", ["batch=2", "model.start=null"]),
        ],
    )
    def test_each_one_trains_reports_and_predicts(self, data, tmp_path, name, folder, changes) -> None:
        run = tmp_path / "run"
        result, lines, _ = trained(name, data / folder, run, *changes)
        assert len(lines) == 2
        assert lines[0].startswith("Epoch 01/02 | Train Loss ")
        assert " | Val Loss " in lines[1]
        assert " | Dice " in lines[1]
        with (run / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [row["epoch"] for row in rows] == ["1", "2"]
        names = {"train_loss", "val_loss", "val_iou", "val_mse", "val_brier", "val_class_accuracy", "lr"}
        assert names <= rows[0].keys()
        assert len((run / "metrics.jsonl").read_text().splitlines()) == 2
        for picture in ("curves.png", "panels.png", "confusion.png"):
            with Image.open(run / picture) as image:
                assert min(image.size) > 60
        card = find_model(str(run)).card
        config = load_config(name, [*SMALL, *changes])
        assert card.architecture == config.model.architecture
        assert 0 <= result["accuracy"] <= 1
        assert f"# {name}" in (run / "report.md").read_text()
        assert torch.__version__.startswith(json.loads((run / "environment.json").read_text())["torch"])
        assert (run / "tensorboard").exists() == config.tensorboard
        # Squared differences of probabilities from 0 or 1, a pixel and class.
        assert 0.01 < float(rows[1]["val_mse"]) < 0.9
        assert not any("aux_classifier" in key for key in read_weights(find_model(str(run))))
        if config.ema:
            with safe_open(run / "state.safetensors", "np") as state:
                taken = int(state.get_tensor("averaged/n_averaged"))
            # Three batches an epoch, two a step.
            assert taken == 4
        picture = next((data / folder).rglob(PICTURES[folder]))
        mask = tmp_path / "mask.tif"
        tilesegment.predict(picture, mask, model=str(run), engine="torch", match_input=True)
        with Image.open(picture) as original, Image.open(mask) as found:
            assert original.size == found.size

    def test_a_last_batch_of_one_and_a_single_picture_train(self, data: Path, tmp_path: Path) -> None:
        for batch, train in ((4, "0.5"), (3, "0.1")):
            split = f"data.split={{train: {train}, val: {1 - float(train)}}}"
            result, lines, _ = trained(
                "rooftop", data / "rooftop", tmp_path / f"r{batch}", f"batch={batch}", split, "epochs=1"
            )
            assert len(lines) == result["epochs"] == 1

    def test_batches_of_one_say_what_to_do(self, data: Path, tmp_path: Path) -> None:
        with pytest.raises(TrainingError, match=r"cannot train on batches of one .*--set batch=2"):
            trained("rooftop", data / "rooftop", tmp_path / "r", "batch=1")

    def test_it_learns(self, data: Path, tmp_path: Path) -> None:
        result, _, _ = trained(
            "rooftop", data / "rooftop", tmp_path / "r", "epochs=8", "data.split={train: 0.8, val: 0.2}",
            "batch=4",
        )  # fmt: skip
        assert result["best"]["iou"] > 0.5

    def test_the_result_is_that_of_the_best_weights(self, data: Path, tmp_path: Path) -> None:
        # The last epoch's rate spoils what was learnt.
        result, _, _ = trained(
            "rooftop", data / "rooftop", tmp_path / "r", "epochs=3", "ema=0", "warmup=0",
            "data.split={train: 0.6, val: 0.4}", "scheduler={name: StepLR, step_size: 2, gamma: 3000}",
        )  # fmt: skip
        with (tmp_path / "r" / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        losses, ious = ([float(row[name]) for row in rows] for name in ("val_loss", "val_iou"))
        assert result["split"] == "val"
        assert result["loss"] == pytest.approx(losses[int(np.argmax(ious))], rel=1e-4)
        assert result["loss"] != pytest.approx(losses[-1], rel=1e-2)

    def test_early_stopping(self, data: Path, tmp_path: Path) -> None:
        result, _, _ = trained(
            "rooftop", data / "rooftop", tmp_path / "r", "epochs=20", "patience=2", "optimizer.lr=0.0"
        )
        assert result["epochs"] < 20


def weights_of(folder: Path) -> dict[str, np.ndarray]:
    return read_weights(find_model(str(folder / "last.safetensors")))


_CHILD = """
import sys
from pathlib import Path
from tilesegment.train import batches, loop
from tilesegment.train.config import load_config
from tilesegment.train.run import Listener, run_training

def status(s):
    with open(sys.argv[3], "a") as log:
        log.write(f"{s.epoch} {s.done}\\n")

run_training(load_config("rooftop", sys.argv[5:]), Path(sys.argv[1]), Path(sys.argv[2]),
             resume=sys.argv[4] == "resume", listener=Listener(status=status))
"""


class TestResume:
    # The rate of every epoch depends on how many there were.
    changes = (
        "ema=0.9", "warmup=0.5", "epochs=2", "hard_share=0.3", "mixstyle=0.5",
        "scheduler={name: CosineAnnealingLR, T_max: 2}",
    )  # fmt: skip

    def test_a_killed_run_ends_with_the_same_bits(self, data: Path, tmp_path: Path) -> None:
        script = tmp_path / "child.py"
        script.write_text(_CHILD)

        def start(folder: Path, log: Path, how: str, *more: str) -> subprocess.Popen[bytes]:
            environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
            return subprocess.Popen(
                [sys.executable, script, data / "rooftop", folder, log, how, *SMALL, *self.changes, *more],
                env=environment, stderr=subprocess.PIPE,
            )  # fmt: skip

        whole, killed = tmp_path / "whole", tmp_path / "killed"
        child = start(whole, tmp_path / "log", "fresh")
        assert child.wait(200) == 0, child.stderr.read() if child.stderr else ""
        log = tmp_path / "log2"
        # State is saved after every step, so that the kill falls into the middle of an epoch.
        child = start(killed, log, "fresh", "save_minutes=0")
        until = time.monotonic() + 200
        while not (log.exists() and "2 2" in log.read_text()) and time.monotonic() < until:
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert (killed / "state.safetensors").is_file()
        assert not (killed / "report.md").exists()
        child = start(killed, tmp_path / "log3", "resume", "save_minutes=0")
        assert child.wait(200) == 0, child.stderr.read() if child.stderr else ""
        assert not (tmp_path / "log3").read_text().startswith("1 ")
        one, other = weights_of(whole), weights_of(killed)
        assert one.keys() == other.keys()
        for name, values in one.items():
            np.testing.assert_array_equal(other[name], values, err_msg=name)
        assert (whole / "metrics.csv").read_text() == (killed / "metrics.csv").read_text()

    def test_more_epochs_go_on_and_other_settings_are_refused(self, data: Path, tmp_path: Path) -> None:
        run = tmp_path / "r"
        trained("rooftop", data / "rooftop", run, "epochs=1")
        with pytest.raises(OutputError, match="exists already; give --resume"):
            trained("rooftop", data / "rooftop", run, "epochs=2")
        with pytest.raises(OutputError, match="batch differs from the interrupted run"):
            trained("rooftop", data / "rooftop", run, "epochs=2", "batch=2", resume=True)
        with pytest.raises(OutputError, match="seed differs from the interrupted run"):
            trained("rooftop", data / "rooftop", run, "epochs=2", "seed=9", resume=True)
        result, lines, notes = trained("rooftop", data / "rooftop", run, "epochs=2", resume=True)
        assert len(lines) == 1
        assert lines[0].startswith("Epoch 02/02")
        assert result["epochs"] == 2
        assert notes[-1] == "going on after epoch 1 of 2"
        before = (run / "config.yaml").read_bytes()
        with pytest.raises(SettingsError, match="2 epochs are done already, and epochs is 1"):
            trained("rooftop", data / "rooftop", run, "epochs=1", resume=True)
        assert (run / "config.yaml").read_bytes() == before

    def test_overwrite_removes_a_run_and_nothing_else(self, data: Path, tmp_path: Path) -> None:
        mine = tmp_path / "mine"
        mine.mkdir()
        (mine / "thesis.txt").write_text("years of work")
        with pytest.raises(OutputError, match="is no run folder"):
            trained("rooftop", data / "rooftop", mine, overwrite=True)
        assert (mine / "thesis.txt").exists()

    @pytest.mark.parametrize("change", ["model.encoder=resnet35", "optimizer.lr=-1", "loss={}"])
    def test_settings_that_cannot_be_used_leave_everything(
        self, data: Path, tmp_path: Path, change: str
    ) -> None:
        fresh, earlier = tmp_path / "fresh", tmp_path / "earlier"
        earlier.mkdir()
        (earlier / "config.yaml").write_text("name: rooftop")
        for run, overwrite in ((fresh, False), (earlier, True)):
            with pytest.raises(TilesegmentError):
                trained("rooftop", data / "rooftop", run, change, overwrite=overwrite)
        assert not fresh.exists()
        assert (earlier / "config.yaml").read_text() == "name: rooftop"

    @pytest.mark.parametrize("gsd", ["0", "-1", "fine"])
    def test_pixels_without_a_size(self, data: Path, tmp_path: Path, gsd: str) -> None:
        with pytest.raises(SettingsError, match="no size of a pixel"):
            trained("rooftop", data / "rooftop", tmp_path / "r", f"data.gsd={gsd}")


class TestFailures:
    def test_a_loss_that_is_no_number(self, data: Path, tmp_path: Path) -> None:
        run = tmp_path / "r"
        with pytest.raises(
            TrainingError, match=r"the loss is (nan|inf) in epoch \d+, batch \d+; what was saved"
        ):
            trained("rooftop", data / "rooftop", run, "optimizer.lr=1e30", "clip=0", "epochs=6")

    def test_a_full_disk_keeps_the_last_state(self, data: Path, tmp_path: Path, monkeypatch) -> None:
        from tilesegment.train import checkpoint

        run, real, calls = tmp_path / "r", checkpoint.save_file, []

        def full(*arguments: Any) -> None:
            calls.append(1)
            if len(calls) > 1:
                raise OSError(28, "No space left on device")
            real(*arguments)

        monkeypatch.setattr(checkpoint, "save_file", full)
        with pytest.raises(OutputError, match=r"state\.safetensors: cannot be written .*No space"):
            trained("rooftop", data / "rooftop", run)
        monkeypatch.undo()
        _, lines, _ = trained("rooftop", data / "rooftop", run, resume=True)
        assert [line[:11] for line in lines] == ["Epoch 02/02"]

    def test_pretrained_weights_that_cannot_be_had(self, data: Path, tmp_path: Path, monkeypatch) -> None:
        import segmentation_models_pytorch as smp

        def offline(*_: object, **__: object) -> None:
            raise OSError("Name or service not known")

        monkeypatch.setattr(smp, "create_model", offline)
        with pytest.raises(
            ModelError, match="imagenet weights of resnet18 cannot be loaded; go online once"
        ):
            trained("rooftop", data / "rooftop", tmp_path / "r", "model.encoder_weights=imagenet")

    def test_coco_weights_that_cannot_be_had_are_said(
        self, data: Path, tmp_path: Path, monkeypatch
    ) -> None:
        from torchvision.models._api import WeightsEnum

        def offline(*_: object, **__: object) -> None:
            raise OSError("Name or service not known")

        monkeypatch.setattr(WeightsEnum, "get_state_dict", offline)
        with pytest.raises(
            ModelError, match=r"coco weights of deeplabv3_resnet101 cannot be had.*or to null"
        ):
            trained("coco-binary", data / "coco", tmp_path / "r", "epochs=1", "batch=2")
        assert not (tmp_path / "r").exists()

    def test_coco_weights_bring_torchvisions_network(self, data: Path, tmp_path: Path, monkeypatch) -> None:
        from torchvision.models._api import WeightsEnum
        from torchvision.models.segmentation import deeplabv3_resnet101

        torch.manual_seed(3)
        stand_in = deeplabv3_resnet101(weights=None, weights_backbone=None, aux_loss=True).state_dict()
        monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda self, **_: stand_in)
        trained("coco-binary", data / "coco", tmp_path / "r", "epochs=1", "batch=2", "optimizer.lr=0.0")
        found = find_model(str(tmp_path / "r"))
        assert found.card.architecture == "torchvision.deeplabv3_resnet101"
        weights = read_weights(found)
        name = "backbone.layer4.2.conv2.weight"
        np.testing.assert_array_equal(weights[f"model.{name}"], stand_in[name].numpy())
        assert weights["model.classifier.4.weight"].shape[0] == 2
        tilesegment.predict(
            next((data / "coco/train2017").glob("*.jpg")),
            tmp_path / "m.tif",
            model=str(tmp_path / "r"),
            engine="torch",
        )

    def test_torchvisions_and_smps_networks_differ(self) -> None:
        card = find_model("roofs").card
        own = dataclasses.replace(card, architecture="torchvision.deeplabv3_resnet101", encoder="resnet101")
        with pytest.raises(ModelError, match="torchvision has no segmentation model 'deeplab'"):
            build_network(dataclasses.replace(own, architecture="torchvision.deeplab"))
        dilations = [m.dilation[0] for m in build_network(own).modules() if isinstance(m, torch.nn.Conv2d)]
        assert max(dilations) == 36

    @pytest.mark.parametrize("workers", [0, 1])
    def test_a_damaged_picture_is_one_line_from_any_process(self, tmp_path: Path, workers: int) -> None:
        root = layouts.rooftops(tmp_path / "data", 6)
        for path in (root / "images/images").glob("*.tif"):
            path.write_bytes(path.read_bytes()[:900])
        changes = [part for change in [*SMALL, f"workers={workers}"] for part in ("--set", change)]
        done = run_cli("train", "rooftop", "--data", root, "-o", tmp_path / "r", *changes)
        assert done.returncode == 1
        assert "cannot be read" in done.stderr
        errors = [line for line in done.stderr.splitlines() if not line.startswith("warning: ")]
        assert len(errors) == 1, done.stderr

    def test_an_empty_validation_split(self, data: Path, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="the validation split is empty"):
            trained("rooftop", data / "rooftop", tmp_path / "r", "data.split={train: 1.0}")


def test_the_encoder_has_a_rate_of_its_own() -> None:
    network = build_network(find_model("roofs").card)
    made = make_optimizer(NamedConfig("AdamW", options={"lr": 0.01}), network, 0.5)
    rates = {id(p): group["lr"] for group in made.param_groups for p in group["params"]}
    assert len(rates) == len(list(network.parameters()))
    assert {rates[id(p)] for p in network.encoder.parameters()} == {0.005}
    assert {rates[id(p)] for p in network.decoder.parameters()} == {0.01}
    Schedule(load_config("roofs", ["scheduler=null", "warmup=1"]), made, 10)
    assert [group["lr"] for group in made.param_groups] == pytest.approx([1e-5, 5e-6])
    with pytest.raises(SettingsError, match="encoder_rate: Conv2d has no encoder"):
        make_optimizer(NamedConfig("AdamW"), torch.nn.Conv2d(1, 1, 1), 0.5)


def test_every_block_of_the_encoder_has_a_rate_of_its_own() -> None:
    network = build_network(find_model("roofs").card)
    made = make_optimizer(NamedConfig("AdamW", options={"lr": 0.01}), network, 0.5, 0.8)
    rates = {id(p): group["lr"] for group in made.param_groups for p in group["params"]}
    assert len(rates) == len(list(network.parameters()))
    assert {rates[id(p)] for p in network.decoder.parameters()} == {0.01}
    by_block: dict[str, set[float]] = {}
    for name, parameter in network.encoder.named_parameters():
        found = re.match(r"(.*?\d+(?:\.\d+)*)\.", name)
        by_block.setdefault(found[1] if found else name.split(".")[0], set()).add(rates[id(parameter)])
    assert all(len(found) == 1 for found in by_block.values())
    told = [rate for (rate,) in by_block.values()]
    assert len(told) > 10
    assert told == pytest.approx([0.005 * 0.8**k for k in reversed(range(len(told)))])
    with pytest.raises(SettingsError, match="layer_decay: OneCycleLR gives all weights one rate"):
        Schedule(load_config("roofs", ["scheduler={name: OneCycleLR, max_lr: 0.1}", "encoder_rate=1.0",
                                       "layer_decay=0.8"]), made, 10)  # fmt: skip


def test_the_rates_of_blocks_are_the_configurations(tmp_path: Path, monkeypatch) -> None:
    from tilesegment.train import loop

    seen: list[tuple[float, float]] = []

    def noted(config, network, encoder_rate, layer_decay):
        seen.append((encoder_rate, layer_decay))
        raise SettingsError("enough")

    monkeypatch.setattr(loop, "make_optimizer", noted)
    root = layouts.rooftops(tmp_path / "set", 12, 64, nested=False)
    with pytest.raises(SettingsError, match="enough"):
        trained("rooftop", root, tmp_path / "r", "data.gsd=null", "encoder_rate=0.3", "layer_decay=0.9")
    assert seen == [(0.3, 0.9)]


class TestTrial:
    """`check --model`: a network of a configuration, asked once."""

    def test_says_what_the_network_is(self, tmp_path: Path) -> None:
        root = layouts.voc(tmp_path)
        changes = ["data.size=[64, 96]", "batch=2", "model.encoder_weights=null"]
        words = [part for change in changes for part in ("--set", change)]
        done = run_cli("check", root, "--as", "voc2012", "--model", *words)
        assert done.returncode == 0, done.stderr
        card = make_card(load_config("voc2012", changes), open_reader("voc", root, {}))
        weights = sum(p.numel() for p in build_network(card).parameters()) / 1e6
        (line,) = (text for text in done.stderr.splitlines() if "million weights" in text)
        assert f"{weights:.2f} million weights ({weights:.2f} learn)" in line
        assert "2 x 3 x 64 x 96 to 2 x 21 x 64 x 96 in" in line

    def test_a_network_that_answers_nonsense(self, tmp_path: Path, monkeypatch) -> None:
        from tilesegment.train import trial

        root = layouts.voc(tmp_path)
        config = load_config("voc2012", ["data.size=[64, 96]", "batch=2", "model.encoder_weights=null"])
        reader = open_reader("voc", root, {})
        for answer in (torch.full((2, 21, 64, 96), torch.nan), torch.zeros(2, 20, 64, 96)):
            network = torch.nn.Identity()
            monkeypatch.setattr(network, "forward", lambda tiles, answer=answer: answer)
            monkeypatch.setattr(trial, "build_network", lambda card, network=network: network)
            with pytest.raises(ModelError, match=r"answers .*expected \(2, 21, 64, 96\) numbers"):
                trial.tried_network(config, reader)

    def test_readers_have_no_network(self, tmp_path: Path) -> None:
        done = run_cli("check", layouts.voc(tmp_path), "--as", "voc", "--model")
        assert done.returncode == 2
        assert "a reader says nothing of a network" in done.stderr


@pytest.mark.parametrize(
    ("change", "advice"),
    [
        ("encoder=resnet18", "did you mean 'model.encoder'?"),
        ("encoder_weights=imagenet", "did you mean 'model.encoder_weights'?"),
        ("size=[64, 64]", "did you mean 'data.size'?"),
        ("threshold=0.4", "did you mean 'card.threshold'?"),
        ("lr=0.1", "did you mean 'optimizer.lr'?"),
        ("epoch=3", "did you mean 'epochs'?"),
    ],
)
def test_keys_are_named_as_they_are_set(change: str, advice: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_config("rooftop", [change])
    assert str(caught.value).endswith(advice)
    good = advice.split("'")[1] + "=" + change.partition("=")[2]
    load_config("rooftop", [good])


def test_none_is_no_file_of_weights(tmp_path: Path) -> None:
    root = layouts.rooftops(tmp_path / "set", 12, 64, nested=False)
    with pytest.raises(ModelError, match="none: no such file of encoder weights; null is how random ones"):
        trained("rooftop", root, tmp_path / "r", "data.gsd=null", "model.encoder_weights=none")


def test_check_takes_the_configuration_of_a_readers_name(tmp_path: Path) -> None:
    sizes = []
    root = layouts.camvid(tmp_path / "cam")
    for rows in (64, 128):
        sheet = tmp_path / f"{rows}.png"
        done = run_cli(
            "check", root, "--as", "camvid", "--sheet", sheet, "--set", f"data.size=[{rows}, 96]"
        )
        assert done.returncode == 0, done.stderr
        with Image.open(sheet) as picture:
            sizes.append(picture.height)
    assert sizes[1] > sizes[0]


def test_download_is_asked_for_by_a_flag(tmp_path: Path) -> None:
    where = tmp_path / "no"
    for words in (["train", "voc2012", "--data", where], ["check", where, "--as", "voc2012"]):
        url = "data.url=http://127.0.0.1:9/voc.tar"
        done = run_cli(*words, "--download", "--set", url)
        assert done.returncode == 1
        assert "127.0.0.1:9/voc.tar" in done.stderr
    (tmp_path / "empty").mkdir()
    done = run_cli("check", tmp_path / "empty", "--as", "voc2012")
    assert "--download fetches it (2 GB)" in done.stderr
    done = run_cli("check", tmp_path / "empty", "--as", "camvid", "--download")
    assert "has no option 'download'" in done.stderr


def test_panels_keep_the_pictures_aspect(tmp_path: Path, monkeypatch) -> None:
    from tilesegment.train import run as story

    shown: list[Any] = []
    monkeypatch.setattr(story, "sheet_of", lambda rows, *_: shown.extend(rows) or Image.new("RGB", (1, 1)))
    changes = ["data.size=[64, 64]", "batch=2", "epochs=1", "model.encoder=mobilenet_v2", "workers=0"]
    trained("voc2012", layouts.voc(tmp_path), tmp_path / "r", *changes, "model.encoder_weights=null")
    assert shown
    for row in shown:
        assert {cell.size for cell in row} == {(70, 50)}


def test_grouped_convolutions_compute_in_float32_under_autocast() -> None:
    torch.manual_seed(0)
    plain, grouped = torch.nn.Conv2d(8, 8, 3), torch.nn.Conv2d(8, 8, 3, groups=8)
    values = torch.randn(1, 8, 9, 9)
    network = torch.nn.Sequential(plain, grouped)
    exact = grouped(plain(values).bfloat16().float())
    keep_grouped_in_float32(network)
    copied = copy.deepcopy(network)
    for one in (network, copied):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert one[0](values).dtype == torch.bfloat16
            assert one[1](values).dtype == torch.float32
    with torch.no_grad():
        copied[1].weight.zero_()
        copied[1].bias.zero_()
    assert not copied[1](values).any()
    torch.testing.assert_close(grouped(plain(values).bfloat16().float()), exact)


def test_packaged_weights_start_an_encoder_without_a_hub(data: Path, tmp_path: Path, monkeypatch) -> None:
    from tilesegment.train import start

    encoder = build_network(dataclasses.replace(find_model("roofs").card, encoder="resnet18")).encoder
    state = {name: torch.full_like(values, 0.25) for name, values in encoder.state_dict().items()}
    torch.save(state, tmp_path / "imagenet.pth")
    monkeypatch.setattr(start, "packaged_weights", lambda encoder: tmp_path / "imagenet.pth")
    changes = ("epochs=1", "optimizer.lr=0.0", "model.encoder_weights=imagenet")
    _, _, notes = trained("rooftop", data / "rooftop", tmp_path / "r", *changes)
    assert "100 of 100 weights of the encoder are those of imagenet.pth" in notes
    weights = read_weights(find_model(str(tmp_path / "r")))
    assert (weights["encoder.layer4.1.conv2.weight"] == 0.25).all()
    # Or a file that the configuration names.
    changes = ("epochs=1", "optimizer.lr=0.0", f"model.encoder_weights={tmp_path / 'imagenet.pth'}")
    trained("rooftop", data / "rooftop", tmp_path / "s", *changes)
    weights = read_weights(find_model(str(tmp_path / "s")))
    assert (weights["encoder.layer4.1.conv2.weight"] == 0.25).all()


def test_a_cards_normalisation_is_that_of_its_starting_weights(data: Path, tmp_path: Path) -> None:
    reader = open_reader("rooftop-tiles", data / "rooftop", {})

    def mean(*changes: str) -> tuple[float, ...]:
        return make_card(load_config("rooftop", list(changes)), reader).mean

    lite = "model.encoder=timm-tf_efficientnet_lite0"
    assert mean() == mean("model.encoder_weights=null", lite) == (0.485, 0.456, 0.406)
    assert mean(lite) == pytest.approx((127 / 255,) * 3)
    assert mean("model.start=roofs") == find_model("roofs").card.mean
    assert mean(lite, "card.mean=[0.1, 0.2, 0.3]") == (0.1, 0.2, 0.3)


def test_weights_to_start_from(data: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    trained("rooftop", data / "rooftop", first, "epochs=1")
    trained("rooftop", data / "rooftop", second, "epochs=1", f"model.start={first}", "optimizer.lr=0.0")
    one, other = read_weights(find_model(str(first))), read_weights(find_model(str(second)))
    name = next(n for n in one if n.endswith("conv1.weight"))
    np.testing.assert_array_equal(one[name], other[name])
    _, _, notes = trained("voc2012", data / "voc", tmp_path / "c", "epochs=1", f"model.start={first}")
    assert any("weights are those of" in note for note in notes)
    # Nothing is fetched where there are weights to start from; those of another network are refused.
    start = (f"model.start={first}", "epochs=1")
    trained("rooftop", data / "rooftop", tmp_path / "d", *start, "model.encoder_weights=imagenet")
    other = (*start, "model.architecture=Unet", "model.encoder=mobilenet_v2")
    with pytest.raises(ModelError, match=r"\d+ of \d+ weights of .*resnet18\) fit Unet/mobilenet_v2; set"):
        trained("rooftop", data / "rooftop", tmp_path / "e", *other)


@pytest.mark.slow
def test_spawned_readers_give_the_same_weights(data: Path, tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\n"
        "from tilesegment.train.config import load_config\nfrom tilesegment.train.run import run_training\n"
        "if __name__ == '__main__':\n"
        "    run_training(load_config('rooftop', sys.argv[3:]), Path(sys.argv[1]), Path(sys.argv[2]))\n"
    )
    trained("rooftop", data / "rooftop", tmp_path / "0", "epochs=1")
    changes = [*SMALL, "epochs=1", "workers=2"]
    subprocess.run(
        [sys.executable, script, data / "rooftop", tmp_path / "2", *changes], check=True, timeout=300
    )
    one, other = weights_of(tmp_path / "0"), weights_of(tmp_path / "2")
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_the_python_interface(data: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    result = tilesegment.train_model(
        "rooftop", data / "rooftop", tmp_path / "r", changes=[*SMALL, "epochs=1"], line=lines.append
    )
    assert len(lines) == 1
    assert (tmp_path / "r" / "report.md").exists()
    assert result["split"] == "test"


def run_cli(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tilesegment", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
    )


class TestCommands:
    def test_train(self, data: Path, tmp_path: Path) -> None:
        changes = [part for change in [*SMALL, "epochs=1"] for part in ("--set", change)]
        done = run_cli(
            "train", "rooftop", "--data", data / "rooftop", "-o", tmp_path / "r", "--json", *changes
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["epochs"] == 1
        said = [line for line in done.stderr.splitlines() if not line.startswith("warning: ")]
        assert said[0].startswith("Epoch 01/01 | Train Loss ")
        again = run_cli("train", "rooftop", "--data", data / "rooftop", "-o", tmp_path / "r", *changes)
        assert again.returncode == 1
        assert again.stderr.strip().endswith("give --resume, --overwrite or another -o")

    def test_resume_needs_no_setting_twice(
        self, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As the README writes it: what the run was begun with stands in its folder."""
        monkeypatch.chdir(tmp_path)
        changes = [part for change in [*SMALL, "epochs=1"] for part in ("--set", change)]
        begin = ("train", "rooftop", "--data", data / "rooftop")
        assert run_cli(*begin, *changes).returncode == 0
        assert (tmp_path / "runs/rooftop/last.safetensors").is_file()
        done = run_cli(*begin, "--resume", "--set", "epochs=2", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["epochs"] == 2
        wrong = CliRunner().invoke(
            train_command, [*map(str, begin[1:]), "--resume", "--set", "batch=5"], catch_exceptions=True
        )
        assert "batch differs from the interrupted run" in str(wrong.exception)

    @pytest.mark.parametrize(
        ("arguments", "code", "message"),
        [
            (["train", "rooftop"], 1, "error: dataset: no such folder; give the data set with --data"),
            (["train", "rooftop", "--set", "epoch=1"], 2, "did you mean 'epochs'"),
            (["train", "nothing"], 2, "is no YAML file and none of"),
        ],
    )
    def test_errors_are_one_line(self, tmp_path, monkeypatch, arguments, code: int, message: str) -> None:
        monkeypatch.chdir(tmp_path)
        done = run_cli(*arguments)
        assert done.returncode == code
        assert message in done.stderr
        errors = [line for line in done.stderr.splitlines() if not line.startswith("warning: ")]
        assert len(errors) == 1, done.stderr

    def test_print_config(self) -> None:
        done = run_cli("train", "camvid", "--print-config", "--set", "epochs=3")
        assert yaml.safe_load(done.stdout)["epochs"] == 3

    def test_check_sees_the_splits_of_the_training(
        self, data: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:

        from tilesegment.cli import check as command
        from tilesegment.datasets import check as module

        seen = []
        real = module.check
        monkeypatch.setattr(
            module, "check", lambda reader, *rest: (seen.append(reader), real(reader, *rest))[1]
        )
        for seed in (0, 3):
            arguments = [str(data / "rooftop"), "--as", "rooftop", "--set", f"seed={seed}"]
            done = CliRunner().invoke(command.command, arguments)
            assert done.exit_code == 0, done.output
        config = load_config("rooftop", ["seed=3"])
        options = config.data.options
        reader = open_reader(config.data.reader, data / "rooftop", options, config.data.size, 3)
        assert seen[1].names("val") == reader.names("val") != seen[0].names("val")

    def test_check(self, data: Path, tmp_path: Path) -> None:
        sheet = tmp_path / "sheet.png"
        done = run_cli("check", data / "rooftop", "--as", "rooftop", "--sheet", sheet, "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["pictures"] == {"train": 8, "val": 1, "test": 1}
        with Image.open(sheet) as image:
            assert image.width > 400
        root = layouts.rooftops(tmp_path / "bad", 5)
        path = root / "images/images/t02.tif"
        path.write_bytes(path.read_bytes()[:300])
        done = run_cli("check", root, "--as", "rooftop-tiles")
        assert done.returncode == 1
        assert "t02.tif: cannot be read" in done.stderr
        assert done.stderr.strip().endswith("1 things must be mended before training")


class TestRunFolder:
    """What a newcomer finds, and is told."""

    def test_which_picture_was_where(self, data: Path, tmp_path: Path) -> None:
        _, _, notes = trained("rooftop", data / "rooftop", tmp_path / "r", "epochs=1", "batch=2")
        parts = json.loads((tmp_path / "r" / "splits.json").read_text())
        config = load_config(str(tmp_path / "r" / "config.yaml"))
        reader = open_reader(
            config.data.reader, data / "rooftop", config.data.options, config.data.size, config.seed
        )
        assert parts == {name: list(reader.names(name)) for name in ("train", "val", "test")}
        assert any(f"the val split has {len(parts['val'])} pictures only" in note for note in notes)
        assert any("give data.gsd" in note for note in notes)

    def test_no_such_note_where_the_size_is_asked_for(self, data: Path, tmp_path: Path) -> None:
        changes = ("epochs=1", "batch=2", "data.gsd=0.15", 'data.metres={"": 0.15}')
        _, _, notes = trained("rooftop", data / "rooftop", tmp_path / "r", *changes)
        assert not any("give data.gsd" in note for note in notes)


def test_panels_have_the_names_of_their_rows() -> None:
    from tilesegment.report.panels import sheet_of

    cell = Image.new("RGB", (60, 40), "white")
    named = np.asarray(sheet_of([[cell], [cell]], ["image"], ["first", "second"]))
    unnamed = np.asarray(sheet_of([[cell], [cell]], ["image"], ["", ""]))
    changed = np.flatnonzero((named != unnamed).any(axis=(1, 2)))
    # Under each row's picture, and nowhere else.
    assert changed.size
    assert all(60 <= row < 60 + 22 or 122 <= row < 122 + 22 for row in changed.tolist())
    assert {row >= 122 for row in changed.tolist()} == {True, False}


class TestSteps:
    """What a run does to weights, by hand: a network of one convolution."""

    @pytest.fixture
    def trainer(self, data: Path, tmp_path: Path) -> Callable[..., Trainer]:
        def make(*changes: str) -> Trainer:
            config = load_config("rooftop", [*SMALL, "epochs=1", "clip=0", *changes])
            options = {**config.data.options, "gsd": None}
            reader = open_reader("rooftop-tiles", data / "rooftop", options, (64, 64))
            torch.manual_seed(0)
            network = nn.Conv2d(3, len(make_card(config, reader).classes), 1)
            card = make_card(config, reader)
            return Trainer(config, reader, network, card, tmp_path, Processes("cpu"))

        return make

    def test_gradients_are_accumulated_as_their_mean(
        self, trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = trainer(
            "accumulate=2", "batch=2", "scheduler=null", "optimizer={name: SGD, lr: 0.5}",
            "data.split={train: 0.6, val: 0.4}",
        )  # fmt: skip
        seen: list[tuple[torch.Tensor, torch.Tensor]] = []
        real = loop.batches_of

        def recorded(feed: Any) -> Any:
            for batch in real(feed):
                seen.append(batch)
                yield batch

        monkeypatch.setattr(loop, "batches_of", recorded)
        expected = copy.deepcopy(run.network)
        run._train_epoch(loop.loader(run.training, batches := Batches(), 0, False), batches)
        # Three batches: two steps, the last one of a single batch.
        assert len(seen) == 3
        for group in (seen[:2], seen[2:]):
            for values, label in group:
                loss = run._loss(padded_logits(expected, values), label)
                (loss / len(group)).backward()
            with torch.no_grad():
                for weights in expected.parameters():
                    weights -= 0.5 * weights.grad
                    weights.grad = None
        for found, wanted in zip(run.network.parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(found, wanted)

    def test_the_validation_loss_is_the_mean_over_pictures(
        self, trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = trainer("batch=3", "data.split={train: 0.6, val: 0.4}")
        sizes: list[int] = []

        def squared(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
            sizes.append(len(label))
            return torch.tensor(float(len(label)) ** 2)

        monkeypatch.setattr(run, "_loss", squared)
        loss, _ = run.evaluate("val")
        # Four pictures, of which the last one comes alone.
        assert sizes == [3, 1]
        assert loss == pytest.approx((3 * 9 + 1 * 1) / 4)

    def test_the_best_epochs(self, trainer: Callable[..., Trainer]) -> None:
        run = trainer("patience=2")
        better = [
            run._note_best({"val_iou": iou, "val_loss": loss})
            for iou, loss in ((0.5, 1.0), (0.4, 0.8), (0.6, 0.9), (0.6, 0.8), (0.5, 0.7))
        ]
        assert better == [{"iou", "loss"}, {"loss"}, {"iou"}, set(), {"loss"}]
        assert run.state.best == {"iou": 0.6, "loss": -0.7}

    def test_a_range_that_is_given_stands_in_the_card(self, trainer: Callable[..., Trainer]) -> None:
        assert trainer().card.value_range == (0.0, 255.0)
        assert trainer("card.value_range=[0, 100]").card.value_range == (0.0, 100.0)

    def test_patience_is_in_epochs_without_a_better_one(self, trainer: Callable[..., Trainer]) -> None:
        run = trainer("patience=2")
        found = []
        for iou in (0.5, 0.4, 0.4):
            run._note_best({"val_iou": iou, "val_loss": 1.0})
            found.append(run._is_exhausted())
        assert found == [False, False, True]
        assert not trainer("patience=0")._is_exhausted()

    def test_what_was_hard_is_read_again_and_changed_anew(self, trainer: Callable[..., Trainer]) -> None:
        run = trainer(
            "hard_share=0.4", "batch=2", "data.split={train: 0.5, val: 0.5}", "augment=[]",
            "card.threshold=0.01",
        )  # fmt: skip
        run._train_epoch(loop.loader(run.training, batches := Batches(), 0, False), batches)
        assert len(run.state.scores) == 5
        run._end_epoch()
        assert 1 <= len(run.state.hard) <= 2
        assert run.state.scores == []
        origin = run.state.hard[0]
        before, again = run.training.sample(*origin), run.training.sample(1, 0, *origin)
        # Rooftops are as large as crops, so that both are cut alike.
        np.testing.assert_array_equal(before.label, again.label)
        run._train_epoch(loop.loader(run.training, batches, 0, False), batches)
        assert sorted(key[2:] for key, _ in run.state.scores if len(key) > 2) == sorted(run.state.hard)

    def test_every_epoch_augments_anew(self, trainer: Callable[..., Trainer]) -> None:
        data = trainer().training
        first, again, second = (data.sample(epoch, 1).values for epoch in (0, 0, 1))
        np.testing.assert_array_equal(first, again)
        assert (first != second).any()


def test_an_average_of_weights_by_hand() -> None:
    network = nn.Linear(1, 1, bias=False)
    found = averaged(network, 0.5)
    assert found is not None
    values = [3.0, 5.0, -2.0, 8.0]
    # The first one is taken as it is; then d = min(0.5, (1 + n) / (10 + n)) of what there was stays.
    expected = values[0]
    for n, value in enumerate(values):
        with torch.no_grad():
            network.weight.fill_(value)
        found.update_parameters(network)
        if n:
            d = min(0.5, (1 + n) / (10 + n))
            expected = d * expected + (1 - d) * value
    assert float(found.module.weight) == pytest.approx(expected)


def test_weights_of_two_classes_in_one_channel() -> None:
    """The positive class counts weights[1] / weights[0] times."""
    logits = torch.tensor([0.3, -1.2, 2.0]).reshape(1, 1, 1, 3)
    label = torch.tensor([1, 0, IGNORE]).reshape(1, 1, 3)
    found = Loss({"bce": 1.0}, 1, torch.tensor([0.5, 2.0]))(logits, label)
    chance = [1 / (1 + np.exp(-x)) for x in (0.3, -1.2)]
    assert float(found) == pytest.approx((-4 * np.log(chance[0]) - np.log(1 - chance[1])) / 2, rel=1e-5)


@pytest.mark.parametrize(("warmup", "rising"), [(0.5, 5), (2, 20)])
def test_the_rate_rises_over_epochs_and_not_steps(warmup: float, rising: int) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule = Schedule(load_config("roofs", ["scheduler=null", f"warmup={warmup}"]), optimizer, 10)
    rates = [optimizer.param_groups[0]["lr"]]
    for _ in range(rising + 3):
        optimizer.step()
        schedule.after_step()
        rates.append(optimizer.param_groups[0]["lr"])
    shares = [min(1.0, step / rising) for step in range(rising + 4)]
    assert rates == pytest.approx([0.1 * (1e-3 + (1 - 1e-3) * share) for share in shares])


def test_an_average_of_statistics_too() -> None:
    """Of batch normalisation, as of weights."""
    network = nn.BatchNorm1d(1)
    found = averaged(network, 0.5)
    assert found is not None
    expected = 0.0
    for n, value in enumerate([4.0, -2.0, 6.0]):
        network.running_mean.fill_(value)
        network.num_batches_tracked.fill_(n)
        found.update_parameters(network)
        d = min(0.5, (1 + n) / (10 + n)) if n else 0.0
        expected = d * expected + (1 - d) * value
    assert float(found.module.running_mean) == pytest.approx(expected)
    # A count is no mean.
    assert int(found.module.num_batches_tracked) == 2


@pytest.mark.parametrize(("name", "options", "by_step"), [
    ("OneCycleLR", {"max_lr": 0.1}, True),
    ("CyclicLR", {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 3, "cycle_momentum": False}, True),
    ("StepLR", {"step_size": 1, "gamma": 0.5}, False),
])  # fmt: skip
def test_some_schedules_are_made_for_steps(name: str, options: dict[str, Any], by_step: bool) -> None:
    """Of four steps an epoch; whoever says when is obeyed."""
    for each in (None, "step", "epoch"):
        raw = {"name": name, **options} | ({} if each is None else {"each": each})
        config = load_config("rooftop", [f"scheduler={json.dumps(raw)}", "epochs=3", "warmup=0"])
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.04)
        schedule = Schedule(config, optimizer, 4)
        rates = [optimizer.param_groups[0]["lr"]]
        for _ in range(4):
            optimizer.step()
            schedule.after_step()
            rates.append(optimizer.param_groups[0]["lr"])
        schedule.after_epoch(1.0)
        moved = len(set(rates)) > 1
        assert moved == (by_step if each is None else each == "step"), each
        assert (optimizer.param_groups[0]["lr"] != rates[-1]) != moved


def test_focal_weights_by_hand() -> None:
    """(1 - p)^2 of binary cross-entropy, the mean over classes, each times its weight."""
    logits = torch.tensor([[1.0, -0.5], [0.2, 0.7], [-1.0, 2.0]]).reshape(1, 3, 2, 1)
    label = torch.tensor([2, IGNORE]).reshape(1, 2, 1)
    weights = [0.5, 1.0, 3.0]
    expected = 0.0
    for number, weight in enumerate(weights):
        chance = 1 / (1 + np.exp(-float(logits[0, number, 0, 0])))
        right = chance if number == 2 else 1 - chance
        expected += weight * (1 - right) ** 2 * -np.log(right)
    found = Loss({"focal": 1.0}, 3, torch.tensor(weights))(logits, label)
    assert float(found) == pytest.approx(expected / 3, rel=1e-5)
    # Without weights, or with equal ones, it is smp's.
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 5, 5, generator=rng)
    label = torch.randint(0, 3, (2, 5, 5), generator=rng)
    label[0, 0] = IGNORE
    plain_one = Loss({"focal": 1.0}, 3)(logits, label)
    assert float(Loss({"focal": 1.0}, 3, torch.ones(3))(logits, label)) == pytest.approx(float(plain_one))
    binary, of_two = logits[:, :1], torch.where(label == 2, 1, label)
    plain_one = Loss({"focal": 1.0, "bce": 1e-9}, 1)(binary, of_two)
    weighted = Loss({"focal": 1.0, "bce": 1e-9}, 1, torch.ones(2))(binary, of_two)
    assert float(weighted) == pytest.approx(float(plain_one), rel=1e-5)


def test_the_positive_class_of_one_channel_in_focal_loss() -> None:
    logits = torch.tensor([0.3, -1.2]).reshape(1, 1, 1, 2)
    label = torch.tensor([1, 0]).reshape(1, 1, 2)
    chance = [1 / (1 + np.exp(-0.3)), 1 - 1 / (1 + np.exp(1.2))]
    parts = [(1 - p) ** 2 * -np.log(p) for p in chance]
    found = Loss({"focal": 1.0, "bce": 1e-9}, 1, torch.tensor([0.5, 2.0]))(logits, label)
    assert float(found) == pytest.approx((4 * parts[0] + parts[1]) / 2, rel=1e-5)


@pytest.mark.parametrize("channels", [1, 2])
def test_a_threshold_is_that_of_prediction(channels: int) -> None:
    """Chances of .3, .5 and .7, truth 0, 1 and 1."""
    odds = torch.tensor([0.3, 0.5, 0.7]).logit()
    logits = odds.reshape(1, 1, 1, 3)
    if channels == 2:
        logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
    label = torch.tensor([0, 1, 1]).reshape(1, 1, 3)
    for threshold, expected in ((0.5, [[1, 0], [0, 2]]), (0.2, [[0, 1], [0, 2]]), (0.6, [[1, 0], [1, 1]])):
        assert count(logits, label, 2, threshold)[0].tolist() == expected, threshold


@pytest.mark.parametrize("name", ["LBFGS", "SparseAdam"])
def test_optimisers_that_cannot_serve(name: str) -> None:
    with pytest.raises(SettingsError, match=f"{name} cannot train networks of images"):
        make_optimizer(NamedConfig(name), nn.Conv2d(3, 2, 1))


def test_networks_that_cannot_take_a_size(data: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"data\.size: PAN/resnet18 cannot take pictures of 64 x 64"):
        trained("rooftop", data / "rooftop", tmp_path / "r", "model.architecture=PAN", "model.options={}")
    assert not (tmp_path / "r").exists()
    half = nn.Sequential(nn.Conv2d(3, 2, 1, stride=2))
    from tests.fakes import fake_card
    from tilesegment.train.start import check_forward

    with pytest.raises(SettingsError, match=r"answers 64 x 64 pictures with \(2, 2, 32, 32\)"):
        check_forward(half, fake_card(2), (64, 64))
    check_forward(nn.Conv2d(3, 2, 1), fake_card(2), (64, 64))


def test_labels_that_are_dummies_are_not_scored(data: Path, tmp_path: Path) -> None:
    """Cityscapes' test labels are not published; VOC's and COCO's validation stands for both."""

    class Reader:
        def __init__(self, test: list[str]) -> None:
            self.parts = {"train": ["a"], "val": ["b"], "test": test}

        def names(self, split: str) -> list[str]:
            return self.parts[split]

    class Trainer:
        def __init__(self, known: int) -> None:
            self.known = known

        def evaluate(self, split: str) -> tuple[float, Confusion]:
            counts = np.array([[self.known if split == "test" else 7, 0], [0, 0]])
            return {"test": 1.0, "val": 2.0}[split], Confusion(2, matrix=counts)

    from tilesegment.train.run import _tested

    for test, known, expected in (
        (["c"], 5, ("test", 1.0)), (["c"], 0, ("val", 2.0)),
        (["b"], 5, ("val", 2.0)), ([], 0, ("val", 2.0)),
    ):  # fmt: skip
        split, loss, confusion = _tested(Reader(test), Trainer(known))  # type: ignore[arg-type]
        assert (split, loss) == expected
        assert confusion.matrix.any()


class TestFrom:
    """Going on with a model on data of one's own."""

    @pytest.fixture
    def start(self, data: Path, tmp_path: Path) -> str:
        """A small model with a contact channel, a licence and credits."""
        from tilesegment.model.store import save_model

        card = fake_card(
            2, contact=True, gsd=0.3, license="CC BY 4.0",
            credits=("somebody",), data=("a town",), mean=(0.2,) * 3, std=(0.3,) * 3, threshold=0.4,
        )  # fmt: skip
        torch.manual_seed(3)
        weights = {name: tensor.numpy() for name, tensor in build_network(card).state_dict().items()}
        save_model(tmp_path / "start.safetensors", weights, card)
        return str(tmp_path / "start.safetensors")

    def test_one_command(self, data: Path, tmp_path: Path, start: str) -> None:
        changes = ("data.size=[64, 64]", "data.metres=0.3", "epochs=1", "workers=0", "precision=fp32")
        notes: list[str] = []
        lines: list[str] = []
        config = load_config("rooftop", [*changes_from(start), *changes])
        listener = Listener(line=lines.append, note=notes.append)
        result = run_training(config, data / "rooftop", tmp_path / "r", listener=listener)
        assert lines[0].startswith("Before training: val IoU 0.")
        assert lines[1].startswith("Epoch 01/01")
        assert not any("do not fit" in note for note in notes)
        card = find_model(str(tmp_path / "r")).card
        assert (card.architecture, card.encoder, card.contact) == ("Unet", "resnet18", True)
        assert (card.gsd, card.threshold, card.mean) == (0.3, 0.4, (0.2,) * 3)
        assert (card.license, card.credits) == ("CC BY 4.0", ("somebody",))
        assert card.data[0] == "a town"
        assert result["epochs"] == 1
        # Statistics stay, weights move.
        before, after = read_weights(find_model(start)), read_weights(find_model(str(tmp_path / "r")))
        moved = {name for name, values in before.items() if name in after and (after[name] != values).any()}
        assert any("weight" in name for name in moved)
        assert not any("running" in name for name in moved)
        # What is gone on with keeps them too.
        (tmp_path / "r" / "report.md").unlink()
        more = load_config(str(tmp_path / "r" / "config.yaml"), ["epochs=2"])
        run_training(more, data / "rooftop", tmp_path / "r", resume=True)
        assert find_model(str(tmp_path / "r" / "last.safetensors")).card.credits == ("somebody",)

    def test_what_is_set_besides_comes_last(self, start: str) -> None:
        config = load_config("rooftop", [*changes_from(start), "encoder_rate=1.0", "freeze=[encoder]"])
        assert (config.encoder_rate, config.freeze) == (1.0, ("encoder",))
        assert config.optimizer.options["lr"] < load_config("rooftop").optimizer.options["lr"]
        with pytest.raises(SettingsError, match="freeze 'head' is none of statistics, encoder"):
            load_config("rooftop", ["freeze=[head]"])

    def test_the_rate_ends_with_the_epochs(self, start: str) -> None:
        for epochs in (10, 60):
            config = load_config("rooftop", [*changes_from(Path(start)), f"epochs={epochs}", "warmup=0"])
            optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
            schedule = Schedule(config, optimizer, 3)
            rates = [1.0]
            for _ in range(epochs):
                optimizer.step()
                schedule.after_epoch(1.0)
                rates.append(optimizer.param_groups[0]["lr"])
            assert rates == sorted(rates, reverse=True)
            assert rates[-1] == pytest.approx(0, abs=1e-9)

    def test_any_configuration_and_model(self, tmp_path: Path) -> None:
        from tilesegment.model.store import save_model

        card = fake_card(2, contact=False)
        save_model(tmp_path / "m.safetensors", {"w": np.zeros(3, np.float32)}, card)
        # A configuration of contact, and a model without it.
        config = load_config("roofs", changes_from(tmp_path / "m.safetensors"))
        assert (config.model.contact, config.loss["contact"]) == (False, 0.0)
        own = dataclasses.replace(card, architecture="torchvision.deeplabv3_resnet101")
        save_model(tmp_path / "t.safetensors", {"w": np.zeros(3, np.float32)}, own)
        assert load_config("coco-binary", changes_from(tmp_path / "t.safetensors")).encoder_rate == 1.0

    def test_a_run_is_begun_or_gone_on_with(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match="start begins a run, and resume goes on"):
            tilesegment.train_model("rooftop", tmp_path, tmp_path / "r", start="roofs", resume=True)

    def test_rates_of_its_own_and_one_for_all(self) -> None:
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
        config = load_config("rooftop", ["encoder_rate=0.1", "scheduler={name: OneCycleLR, max_lr: 0.1}"])
        with pytest.raises(SettingsError, match="OneCycleLR gives all weights one rate"):
            Schedule(config, optimizer, 3)

    def test_a_frozen_encoder(self) -> None:
        network = build_network(fake_card(2))
        freeze(network, ("encoder",))
        set_training(network, network, ("encoder",))
        assert not network.encoder.training
        assert network.decoder.training
        assert not any(parameter.requires_grad for parameter in network.encoder.parameters())
        assert all(parameter.requires_grad for parameter in network.decoder.parameters())
        with pytest.raises(SettingsError, match="Conv2d has no encoder"):
            freeze(nn.Conv2d(1, 1, 1), ("encoder",))


def test_tensorboard_that_is_not_installed(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Is missed before anything is trained."""
    from tilesegment.train import run

    monkeypatch.setattr(run, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"pip install 'tilesegment\[tensorboard\]'"):
        trained("rooftop", data / "rooftop", tmp_path / "r", "tensorboard=true")
    assert not (tmp_path / "r").exists()


def test_a_confusion_matrix_of_very_many_classes(tmp_path: Path) -> None:
    """Is as large as the classes that occur."""
    from tilesegment.train.plots import draw_confusion

    sizes = []
    for classes, met in ((81, 81), (81, 6), (6, 6)):
        matrix = np.zeros((classes, classes), np.int64)
        matrix[:met, :met] = 5
        draw_confusion(tmp_path / "c.png", matrix, [f"class {k}" for k in range(classes)])
        with Image.open(tmp_path / "c.png") as picture:
            sizes.append(picture.size)
    assert sizes[1] == sizes[2]
    assert min(sizes[0]) > 3 * max(sizes[1])
