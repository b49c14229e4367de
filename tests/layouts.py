"""Small data sets in the layouts of the real ones, drawn here: nothing is anybody's picture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import rasterio
from PIL import Image

from tilesegment.datasets.tables import CAMVID_11, CAMVID_32, CITYSCAPES, COCO
from tilesegment.model.card import default_colours


def scene(rng: np.random.Generator, height: int, width: int, classes: list[int]) -> np.ndarray:
    """A map of class numbers: rectangles on the first of them."""
    label = np.full((height, width), classes[0], np.int64)
    for number in rng.permutation(np.repeat(classes[1:], 2)):
        rows, cols = rng.integers(height // 6, height // 2), rng.integers(width // 6, width // 2)
        row, col = rng.integers(0, height - rows), rng.integers(0, width - cols)
        label[row : row + rows, col : col + cols] = number
    return label


def photograph(rng: np.random.Generator, label: np.ndarray) -> np.ndarray:
    """A picture that shows the classes: a colour each, and noise. (rows, columns, 3) uint8."""
    colours = np.random.default_rng(5).integers(40, 215, (256, 3))
    noise = rng.normal(0, 8, (*label.shape, 3))
    return np.clip(colours[label] + noise, 0, 255).astype(np.uint8)


def save(path: Path, values: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, **options)  # type: ignore[arg-type]
    return path


def save_tif(path: Path, values: np.ndarray, **profile: object) -> Path:
    """values: (bands, rows, columns)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path, "w", driver="GTiff", count=len(values), height=values.shape[1], width=values.shape[2],
        dtype=values.dtype.name, **profile,
    ) as out:  # fmt: skip
        out.write(values)
    return path


def houses(root: Path, count: int, size: int = 256) -> Path:
    """Pictures of houses on grass, which the bundled model knows as such, and masks."""
    rng = np.random.default_rng(5)
    for k in range(count):
        picture = np.full((size, size, 3), (96, 110, 70), np.float64) + rng.normal(0, 8, (size, size, 1))
        mask = np.zeros((size, size), np.uint8)
        for _ in range(4):
            row, col = rng.integers(10, size - 90, 2)
            height, width = rng.integers(40, 75, 2)
            picture[row + 12 : row + height + 12, col + 12 : col + width + 12] *= 0.4
            picture[row : row + height, col : col + width] = (170, 90, 70)
            picture[row : row + height // 2, col : col + width] = (205, 115, 90)
            mask[row : row + height, col : col + width] = 255
        pixels = np.clip(picture, 0, 255).astype(np.uint8).transpose(2, 0, 1)
        save_tif(root / "images" / f"{k}.tif", pixels)
        save_tif(root / "masks" / f"{k}.tif", mask[None])
    return root


def rooftops(root: Path, count: int = 12, size: int = 64, nested: bool = True) -> Path:
    rng = np.random.default_rng(1)
    images, labels, ending = (
        ("images/images", "label/label", "_label") if nested else ("images", "masks", "")
    )
    for k in range(count):
        label = scene(rng, size, size, [0, 1])
        save_tif(root / images / f"t{k:02d}.tif", photograph(rng, label).transpose(2, 0, 1))
        save_tif(root / labels / f"t{k:02d}{ending}.tif", (label * 255).astype(np.uint8)[None])
    return root


def cityscapes(root: Path, count: int = 4, height: int = 64, width: int = 128) -> Path:
    """Official tree and file modes: L ids, RGBA colours, uint16 instances, 255 in train ids."""
    rng = np.random.default_rng(2)
    numbers = [7, 11, 23, 24, 26, 0, 3, 18]
    for split, cities in (("train", ("aachen", "bochum")), ("val", ("lindau",)), ("test", ("berlin",))):
        for city in cities:
            for k in range(count // len(cities)):
                stem = f"{city}_{k:06d}_000019"
                label = scene(rng, height, width, numbers)
                gt = root / "gtFine" / split / city
                save(
                    root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png", photograph(rng, label)
                )
                save(gt / f"{stem}_gtFine_labelIds.png", label.astype(np.uint8))
                save(gt / f"{stem}_gtFine_instanceIds.png", (label * 1000 + 1).astype(np.uint16))
                ids = np.array([255 if c.train_id is None else c.train_id for c in CITYSCAPES], np.uint8)
                save(gt / f"{stem}_gtFine_labelTrainIds.png", ids[label])
                table = np.array([(*c.colour, 255) for c in CITYSCAPES], np.uint8)
                save(gt / f"{stem}_gtFine_color.png", table[label])
    return root


PALETTE = {"sky": (70, 130, 180), "road": (128, 64, 128), "tree": (107, 142, 35), "void": (0, 0, 0)}


def colour_folders(root: Path, layout: str, count: int = 4, size: int = 48) -> Path:
    """layout: images+masks, img+label, labels (SPLIT + SPLIT_labels) or halves (side by side JPEG)."""
    rng = np.random.default_rng(3)
    table = np.array(list(PALETTE.values()), np.uint8)
    for split in ("train", "val"):
        for k in range(count):
            label = scene(rng, size, size, [0, 1, 2, 3])
            image, mask = photograph(rng, label), table[label]
            if layout == "halves":
                save(root / split / f"{k}.jpg", np.concatenate([image, mask], axis=1), quality=92)
            elif layout == "labels":
                save(root / split / f"f{k}.png", image)
                save(root / f"{split}_labels" / f"f{k}_L.png", mask)
            else:
                images, masks = layout.split("+")
                save(root / split / images / f"f{k}.png", image)
                save(root / split / masks / f"f{k}.png", mask)
    rows = [f"{name}, {r}, {g}, {b}" for name, (r, g, b) in PALETTE.items()]
    (root / "class_dict.csv").write_text("name, r, g, b\n" + "\n".join(rows) + "\n")
    return root


def voc(root: Path, count: int = 6, height: int = 50, width: int = 70) -> Path:
    rng = np.random.default_rng(4)
    base = root / "VOCdevkit" / "VOC2012"
    palette = [value for colour in default_colours(256) for value in colour]
    names = [f"2007_{k:06d}" for k in range(count)]
    for name in names:
        label = scene(rng, height, width, [0, 7, 15])
        edges = (np.diff(label, axis=0, prepend=label[:1]) != 0) | (np.diff(label, axis=1, prepend=0) != 0)
        mask = Image.fromarray(np.where(edges, 255, label).astype(np.uint8), mode="P")
        mask.putpalette(palette)
        (base / "SegmentationClass").mkdir(parents=True, exist_ok=True)
        mask.save(base / "SegmentationClass" / f"{name}.png")
        save(base / "JPEGImages" / f"{name}.jpg", photograph(rng, label))
    # The folder has more pictures than masks.
    save(base / "JPEGImages" / "2008_000001.jpg", photograph(rng, label))
    lists = base / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("\n".join(names[: count - 2]) + "\n")
    (lists / "val.txt").write_text("\n".join(names[count - 2 :]) + "\n")
    return root


def coco(root: Path, count: int = 4, height: int = 60, width: int = 80) -> Path:
    """Polygons, an uncompressed RLE crowd, an overlap, a grey picture and one without annotations."""
    rng = np.random.default_rng(6)
    for part in ("train2017", "val2017"):
        images, annotations = [], []
        for k in range(count):
            name = f"{k + 1:012d}.jpg"
            picture = rng.integers(0, 255, (height, width, 3), np.uint8)
            save(root / part / name, picture[..., 0] if k == 1 else picture)
            images.append({"id": k + 1, "file_name": name, "height": height, "width": width})
            if k == count - 1:
                continue
            boxes = [(5, 5, 40, 40, 1), (20, 20, 20, 20, 3), (50, 10, 20, 30, 90)]
            for n, (x, y, w, h, category) in enumerate(boxes):
                annotations.append(
                    {
                        "id": 10 * k + n + 1, "image_id": k + 1, "category_id": category, "iscrowd": 0,
                        "area": w * h, "bbox": [x, y, w, h],
                        "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
                    }
                )  # fmt: skip
            # Columns first: all of the first ten columns.
            counts = [0, 10 * height, (width - 10) * height]
            annotations.append(
                {
                    "id": 10 * k + 9, "image_id": k + 1, "category_id": 1, "iscrowd": 1,
                    "area": 10 * height, "bbox": [0, 0, 10, height],
                    "segmentation": {"size": [height, width], "counts": counts},
                }
            )  # fmt: skip
        file = root / "annotations" / f"instances_{part}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        categories = [{"id": number, "name": COCO[number]} for number in (1, 3, 90)]
        file.write_text(
            json.dumps({"images": images, "annotations": annotations, "categories": categories})
        )
    return root


def camvid(root: Path, rgb: bool = False, count: int = 4, height: int = 48, width: int = 64) -> Path:
    rng = np.random.default_rng(7)
    for split in ("train", "val", "test"):
        for k in range(count):
            if rgb:
                label = scene(rng, height, width, [21, 4, 5, 17, 30])
                colours = np.array([colour for _, colour, _ in CAMVID_32], np.uint8)
                save(root / split / f"Seq_{k}.png", photograph(rng, label))
                save(root / f"{split}_labels" / f"Seq_{k}_L.png", colours[label])
            else:
                label = scene(rng, height, width, [0, 1, 3, 8, 11])
                save(root / split / f"0001TP_{k}.png", photograph(rng, label))
                save(root / f"{split}annot" / f"0001TP_{k}.png", label.astype(np.uint8))
    assert len(CAMVID_11) == 11
    return root
