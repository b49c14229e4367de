"""`tilesegment models`."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import click

from tilesegment.cli import logs, options

if TYPE_CHECKING:
    from tilesegment.model.card import Card
    from tilesegment.model.store import ModelFile


@click.command(
    "models",
    short_help="List the bundled models, or show a model's card.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.argument("names", metavar="[MODEL]...", nargs=-1)
@options.LOGS
def command(names: tuple[str, ...], as_json: bool, log_format: str, quiet: bool, verbose: int) -> None:
    """List the bundled models, a line each; or show the card of each MODEL (anything that --model takes):
    what it reads and says, how good it is, its licence and whom to credit."""
    logs.start(-1 if quiet else verbose, log_format)
    from tilesegment.model.store import bundled_models, find_model

    for model in map(find_model, names or bundled_models()):
        if as_json:
            card = dataclasses.asdict(model.card)
            click.echo(json.dumps({**card, "name": model.name, "path": model.path, "sha256": model.sha256}))
        else:
            click.echo(_card_text(model) if names else _line(model))


def _line(model: ModelFile) -> str:
    card = model.card
    scale = f"{card.gsd:g} m" if card.gsd is not None else "pictures"
    return f"{model.name}: {_network(card)}, {scale}, {len(card.classes)} classes"


def _network(card: Card) -> str:
    return " / ".join(filter(None, (card.architecture, card.encoder)))


def _card_text(model: ModelFile) -> str:
    card = model.card
    size = "any" if card.image_size is None else f"{card.image_size[0]} x {card.image_size[1]}"
    precision = "fp32 and bf16" if not model.quantized else "fp32, bf16 and int8"
    low, high = card.value_range
    lines = [
        ("model", f"{model.name} ({model.path})"),
        ("network", f"{_network(card)}, {model.bytes / 4e6:.1f} million weights"),
        ("classes", ", ".join(entry.name for entry in card.classes)),
        ("reads", f"{', '.join(card.bands)}; {card.dtype} of {low:g} to {high:g}"),
        ("scale", f"{card.gsd:g} m a pixel" if card.gsd is not None else f"pictures of {size} pixels"),
        ("tile", f"{card.tile[0]} x {card.tile[1]}, overlap {card.overlap}"),
        ("precision", precision),
        ("threshold", f"{card.threshold:g}, temperature {card.temperature:g}"),
        *((name.replace("_", " "), str(value)) for name, value in sorted(card.metrics.items())),
        ("licence", card.license or "not stated"),
        *(("data", text) for text in card.data),
        *(("credit", text) for text in card.credits),
    ]
    return "\n".join(f"{name:<11}{text}" for name, text in lines)
