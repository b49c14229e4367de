"""From whole regions to polygons as they are written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tilesegment.grid import Grid
from tilesegment.run.block.job import Job
from tilesegment.run.polygons.regular import reach_of, rules_of
from tilesegment.run.polygons.saved import SavedPixels
from tilesegment.run.polygons.split import Splitting
from tilesegment.settings import Measure, VectorSettings
from tilesegment.vector.apart import Candidates, kept_apart
from tilesegment.vector.clean import clean, clean_regular
from tilesegment.vector.parallel import chunks, in_threads
from tilesegment.vector.regularize import Rules
from tilesegment.vector.seams import Features


@dataclass(frozen=True)
class Making:
    """How regions become polygons. settings: with every unit resolved; several_classes: of the regions;
    shared_outlines: these were simplified already, together with their neighbours; rules: make regular
    outlines, for one class; splitting: of buildings that touch."""

    grid: Grid
    settings: VectorSettings
    several_classes: bool = False
    shared_outlines: bool = False
    rules: Rules | None = None
    splitting: Splitting | None = None

    @classmethod
    def of(cls, job: Job, saved: SavedPixels) -> Making:
        """As a job wants it, which must want polygons. saved: what its blocks have saved."""
        drawing, tracing = job.drawing, job.tracing
        if drawing is None:
            raise ValueError("a job without polygons")
        grid, settings, several = drawing.grid, drawing.settings, len(tracing.values) > 1
        rules = rules_of(settings, grid, len(tracing.values), saved, tracing.least)
        splitting = None
        if job.contact or drawing.by_depth:
            unit = 1.0 if grid.crs is not None else job.model.card.gsd or 1.0
            splitting = Splitting(saved, grid, settings, tracing.least, rules, drawing.by_depth, unit)
        return cls(grid, settings, several, tracing.tolerance is not None, rules, splitting)

    def made(self, joined: Iterator[Features]) -> Iterator[Candidates]:
        """Whole regions as polygons, in batches in the order of their first pixel, in all and each. What is
        made of a region depends on no other."""
        if self.splitting is not None:
            joined = self.splitting.features(joined)
        for features in joined:
            if len(features):
                parts = [features[part] for part in chunks(len(features))]
                yield Candidates.concatenate(in_threads(self._cleaned, parts))

    def settled(self, made: Iterator[Candidates]) -> Iterator[Features]:
        """The polygons of all of a scene's regions, none overlapping another."""
        if self.rules is None:
            yield from (candidates.features for candidates in made)
            return
        yield from kept_apart(made, self.grid.width, reach_of(self.rules, self.settings, self.grid))

    def _cleaned(self, features: Features) -> Candidates:
        settings, grid = self.settings, self.grid
        if self.rules is not None:
            return clean_regular(
                features, grid, settings.min_area, settings.simplify, settings.fill_holes, self.rules
            )
        tolerance = Measure(0.0) if self.shared_outlines else settings.simplify
        found = clean(
            features, grid, settings.min_area, tolerance, settings.fill_holes, self.several_classes
        )
        return Candidates(found, found.geometry)
