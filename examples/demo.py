"""A made-up town from above, its roofs found by the bundled model.

    python examples/demo.py FOLDER

writes scene.tif (streets, trees, shadows, gabled and flat roofs at many angles), predicts it and leaves
roofs.gpkg, mask.tif and overlay.png in FOLDER.
"""

from __future__ import annotations

import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from PIL import Image, ImageDraw, ImageFilter

import tilesegment

SIZE = 1536
METRES = 0.15
# Light falls from the north-west: shadows go this way, in metres for each metre of height.
SHADOW = np.array([0.55, 0.45])
ROOFS = [
    (168, 92, 72),
    (150, 80, 66),
    (128, 74, 62),
    (120, 118, 116),
    (150, 148, 144),
    (98, 100, 108),
    (176, 130, 96),
]
FLAT = [(170, 168, 162), (140, 140, 140), (196, 192, 184), (124, 132, 140)]


def noise(rng: np.random.Generator, scales: list[int]) -> np.ndarray:
    """Smooth random ground, (SIZE, SIZE), about 0 +- 1: octaves of enlarged random pictures."""
    total = np.zeros((SIZE, SIZE))
    for scale in scales:
        coarse = rng.standard_normal((SIZE // scale + 2, SIZE // scale + 2)).astype(np.float32)
        picture = Image.fromarray(coarse).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        total += np.asarray(picture) * (scale / max(scales)) ** 0.5
    return total / total.std()


def ground(rng: np.random.Generator) -> np.ndarray:
    """Grass, dry grass and bare earth, (SIZE, SIZE, 3)."""
    wet, dust = noise(rng, [256, 64, 16]), noise(rng, [128, 8, 4, 2])
    grass, dry, earth = np.array([86, 104, 62]), np.array([128, 122, 84]), np.array([150, 132, 104])
    share = np.clip(wet * 0.5 + 0.5, 0, 1)[..., None]
    bare = np.clip(noise(rng, [200, 40]) - 0.9, 0, 1)[..., None]
    colour = (grass * (1 - share) + dry * share) * (1 - bare) + earth * bare
    return colour + dust[..., None] * 7


def turned(centre: np.ndarray, size: tuple[float, float], angle: float) -> np.ndarray:
    """Corners of a rectangle in pixels: centre and size in metres."""
    half = np.array(size) / 2
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return (corners @ turn.T + centre) / METRES


def shade(colour: tuple[int, int, int], factor: float) -> tuple[int, int, int]:
    """A colour in another light."""
    red, green, blue = (int(np.clip(value * factor, 0, 255)) for value in colour)
    return red, green, blue


class Town:
    """A picture that streets, houses and trees are drawn on."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.image = Image.fromarray(np.clip(ground(self.rng), 0, 255).astype(np.uint8))
        self.draw = ImageDraw.Draw(self.image)
        self.taken = Image.new("1", (SIZE, SIZE))
        self.extent = SIZE * METRES

    def streets(self, angle: float) -> list[np.ndarray]:
        """A slightly bent grid of asphalt; its crossing directions are where houses line up."""
        lines = []
        for direction in (angle, angle + np.pi / 2):
            along = np.array([np.cos(direction), np.sin(direction)])
            across = np.array([-along[1], along[0]])
            for offset in np.arange(-170, 171, 58):
                bend = self.rng.uniform(-4, 4, 5)
                steps = np.linspace(-190, 190, 5)
                points = [
                    np.array([self.extent / 2] * 2) + along * s + across * (offset + b)
                    for s, b in zip(steps, bend, strict=True)
                ]
                lines.append(np.array(points))
        for line in lines:
            path = [tuple(point / METRES) for point in line]
            self.draw.line(path, fill=(150, 144, 132), width=int(9 / METRES), joint="curve")
            ImageDraw.Draw(self.taken).line(path, fill=1, width=int(10.5 / METRES), joint="curve")
        for line in lines:
            path = [tuple(point / METRES) for point in line]
            self.draw.line(path, fill=(106, 106, 108), width=int(6 / METRES), joint="curve")
        return lines

    def free(self, corners: np.ndarray) -> bool:
        """Whether a place is inside the picture and nothing stands there; takes it if so."""
        if corners.min() < 4 or corners.max() > SIZE - 4:
            return False
        place = Image.new("1", (SIZE, SIZE))
        ImageDraw.Draw(place).polygon([tuple(c) for c in corners], fill=1)
        if (np.asarray(place) & np.asarray(self.taken)).any():
            return False
        self.taken.paste(1, (0, 0), place)
        return True

    def shadow(self, corners: np.ndarray, height: float) -> None:
        """Darken the ground behind a body."""
        from shapely import MultiPoint

        moved = corners + SHADOW * height / METRES
        hull = MultiPoint(np.concatenate([corners, moved])).convex_hull
        mask = Image.new("L", (SIZE, SIZE))
        ImageDraw.Draw(mask).polygon(list(hull.exterior.coords), fill=150)
        dark = self.image.point(lambda value: value * 0.42)
        self.image.paste(dark, (0, 0), mask.filter(ImageFilter.GaussianBlur(1.2)))
        self.draw = ImageDraw.Draw(self.image)

    def house(self, centre: np.ndarray, angle: float) -> None:
        """A gabled or a flat roof."""
        large = self.rng.random() < 0.15
        size = self.rng.uniform((14, 10), (26, 16)) if large else self.rng.uniform((8, 6.5), (14, 10))
        width, depth = map(float, size)
        if not self.free(turned(centre, (width + 3, depth + 3), angle)):
            return
        corners = turned(centre, (width, depth), angle)
        self.shadow(corners, self.rng.uniform(3.5, 8))
        flat = large or self.rng.random() < 0.3
        palette = FLAT if flat else ROOFS
        colour = shade(palette[self.rng.integers(len(palette))], self.rng.uniform(0.9, 1.15))
        if flat:
            self.flat_roof(corners, centre, (width, depth), angle, colour)
        else:
            self.gabled_roof(corners, colour)

    def flat_roof(self, corners, centre, size, angle, colour) -> None:  # type: ignore[no-untyped-def]
        """A slab with a parapet and a few boxes on it."""
        self.draw.polygon([tuple(c) for c in corners], fill=shade(colour, 1.18))
        inner = turned(centre, (size[0] - 0.9, size[1] - 0.9), angle)
        self.draw.polygon([tuple(c) for c in inner], fill=colour)
        for _ in range(self.rng.integers(1, 4)):
            spot = centre + self.rng.uniform(-0.3, 0.3, 2) * min(size)
            box = turned(spot, (1.4, 1.1), angle)
            self.draw.polygon([tuple(c + SHADOW * 5) for c in box], fill=shade(colour, 0.6))
            self.draw.polygon([tuple(c) for c in box], fill=shade(colour, 1.3))

    def gabled_roof(self, corners: np.ndarray, colour: tuple[int, int, int]) -> None:
        """Two halves in unequal light, with rows of tiles along the ridge."""
        a, b, c, d = corners
        ridge = (a + d) / 2, (b + c) / 2
        for edge, light in (((a, b), 1.12), ((d, c), 0.78)):
            face = [edge[0], edge[1], ridge[1], ridge[0]]
            self.draw.polygon([tuple(p) for p in face], fill=shade(colour, light))
            for share in np.arange(0.12, 1, 0.16):
                row = [edge[k] * (1 - share) + ridge[k] * share for k in (0, 1)]
                self.draw.line([tuple(p) for p in row], fill=shade(colour, light * 0.92), width=1)
        self.draw.line([tuple(p) for p in ridge], fill=shade(colour, 1.3), width=2)
        chimney = turned((a * 0.3 + c * 0.7) * METRES, (0.8, 0.8), 0)
        self.draw.polygon([tuple(p + SHADOW * 6) for p in chimney], fill=shade(colour, 0.5))
        self.draw.polygon([tuple(p) for p in chimney], fill=(150, 110, 96))

    def tree(self, centre: np.ndarray) -> None:
        """A crown of many leaves' clumps and its shadow."""
        radius = self.rng.uniform(1.5, 4.0)
        if not self.free(turned(centre, (radius, radius), 0)):
            return
        x, y = (centre + SHADOW * radius * 0.9) / METRES
        r = radius / METRES
        mask = Image.new("L", (SIZE, SIZE))
        ImageDraw.Draw(mask).ellipse([x - r, y - r, x + r, y + r], fill=140)
        self.image.paste(
            self.image.point(lambda v: v * 0.45), (0, 0), mask.filter(ImageFilter.GaussianBlur(2))
        )
        self.draw = ImageDraw.Draw(self.image)
        base = np.array([52, 74, 40]) * self.rng.uniform(0.8, 1.25)
        for _ in range(int(26 * radius)):
            angle, far = self.rng.uniform(0, 2 * np.pi), radius * self.rng.random() ** 0.5 * 0.92
            leaf = centre + np.array([np.cos(angle), np.sin(angle)]) * far
            light = 1 - 0.35 * float((leaf - centre) @ SHADOW) / radius
            x, y = leaf / METRES
            s = self.rng.uniform(0.25, 0.7) / METRES
            red, green, blue = (int(v) for v in np.clip(base * light * self.rng.uniform(0.85, 1.2), 0, 255))
            self.draw.ellipse([x - s, y - s, x + s, y + s], fill=(red, green, blue))

    def finish(self) -> np.ndarray:
        """As a camera sees it: slightly soft, slightly noisy."""
        soft = np.asarray(self.image.filter(ImageFilter.GaussianBlur(0.7)), np.float32)
        haze = noise(self.rng, [400, 90])[..., None] * 3
        grain = self.rng.normal(0, 2.5, (SIZE, SIZE, 1))
        return np.clip(soft + haze + grain, 0, 255).astype(np.uint8)


def make_town(seed: int) -> np.ndarray:
    """An aerial picture, (SIZE, SIZE, 3) uint8."""
    town = Town(seed)
    angle = town.rng.uniform(0.2, 0.6)
    lines = town.streets(angle)
    for line in lines:
        for start, end in pairwise(line):
            along = (end - start) / np.linalg.norm(end - start)
            across = np.array([-along[1], along[0]])
            for step in np.arange(6, np.linalg.norm(end - start), 15):
                for side in (-1, 1):
                    place = start + along * (step + town.rng.uniform(-2, 2))
                    place = place + across * side * town.rng.uniform(12, 15)
                    if town.rng.random() < 0.86:
                        turn = np.arctan2(along[1], along[0]) + town.rng.normal(0, 0.06)
                        town.house(place, float(turn + (np.pi / 2 if town.rng.random() < 0.3 else 0)))
    for _ in range(260):
        town.tree(town.rng.uniform(2, town.extent - 2, 2))
    return town.finish()


def write_scene(path: Path, picture: np.ndarray) -> None:
    """A picture as a tiled GeoTIFF, somewhere near Munich."""
    profile = {
        "driver": "GTiff",
        "dtype": "uint8",
        "count": 3,
        "height": SIZE,
        "width": SIZE,
        "tiled": True,
    }
    place = Affine(METRES, 0, 690_000, 0, -METRES, 5_335_000)
    with rasterio.open(
        path, "w", crs="EPSG:25832", transform=place, photometric="RGB", compress="deflate", **profile
    ) as dataset:
        dataset.write(picture.transpose(2, 0, 1))


def main(folder: Path) -> None:
    """Make the scene, predict it, say where everything is."""
    folder.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()
    picture = make_town(seed=4)
    scene = folder / "scene.tif"
    write_scene(scene, picture)
    made = time.perf_counter()
    record = tilesegment.predict(
        scene,
        folder / "roofs.gpkg",
        mask=folder / "mask.tif",
        overlay=folder / "overlay.png",
        overwrite=True,
    )
    print(f"made a town of {SIZE} x {SIZE} pixels in {made - begin:.1f} s")
    print(f"found {record['counts']['polygons']} roofs in {time.perf_counter() - made:.1f} s:")
    for name in ("scene.tif", "roofs.gpkg", "mask.tif", "overlay.png"):
        print(f"  {folder / name}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo"))
