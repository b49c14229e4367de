"""Parts of self-contained pages."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence

from PIL import Image

_STYLE = (
    "body{font:15px/1.5 sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "img{max-width:100%}figure{margin:1rem 0}figcaption{color:#555}pre{background:#f6f6f6;padding:1rem;"
    "overflow:auto}table{border-collapse:collapse}td,th{padding:.2rem .6rem;text-align:right;"
    "border-bottom:1px solid #ddd}svg{background:#fafafa;margin:1rem 1rem 0 0}"
    "table.told td:first-child{text-align:left;color:#555}table.told td{text-align:left}"
    "p.warning{background:#fff4d6;padding:.4rem .8rem}"
)


def page(title: str, parts: Iterable[str]) -> str:
    """A whole page of parts that are HTML."""
    shown = html.escape(title)
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{shown}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{shown}</h1>{''.join(parts)}</body></html>\n"
    )


def picture(image: Image.Image, caption: str, kind: str = "PNG") -> str:
    """A picture inside the page. kind: PNG or JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, kind)
    data = base64.b64encode(buffer.getvalue()).decode()
    source = f"data:image/{kind.lower()};base64,{data}"
    return f'<figure><img alt="" src="{source}"><figcaption>{html.escape(caption)}</figcaption></figure>'


def told(rows: Iterable[tuple[str, object]]) -> str:
    """A table of names and what is told of each."""
    lines = (
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(str(text))}</td></tr>" for name, text in rows
    )
    return f'<table class="told">{"".join(lines)}</table>'


def bars(title: str, counts: Sequence[int], labels: Sequence[str]) -> str:
    """Counts as upright bars."""
    width, height, margin = 420, 180, 34
    step, most = width / max(1, len(counts)), max([*counts, 1])
    parts = [
        f'<svg width="{width + 2 * margin}" height="{height + 2 * margin}" role="img">',
        f'<text x="{margin}" y="20">{html.escape(title)}</text>',
    ]
    for k, (count, label) in enumerate(zip(counts, labels, strict=True)):
        tall, left = height * count / most, margin + k * step
        parts.append(
            f'<rect x="{left + 1:.1f}" y="{margin + height - tall:.1f}" width="{step - 2:.1f}" '
            f'height="{tall:.1f}" fill="#1f6fb4"><title>{html.escape(label)}: {count}</title></rect>'
        )
        parts.append(
            f'<text x="{left + step / 2:.1f}" y="{margin + height + 16}" font-size="10" '
            f'text-anchor="middle">{html.escape(label)}</text>'
        )
    return "".join(parts) + "</svg>"
