"""End-to-end speed of `predict` on a GPU against the pure forward rate there.

    python benchmarks/gpu.py [--model FILE] [--scene FILE] [--megapixels 400] [--batch 16] [-- OPTIONS]

As throughput.py, but the forward rate is that of the network alone on one batch that stays on the device:
no copies, no normalisation, no blending. Exit 1 where torch sees no GPU.
"""

from __future__ import annotations

import sys
import time

import torch
from throughput import arguments, compare

from tilesegment.model.build import load_network
from tilesegment.model.store import find_model


def forward_rate(model: str, batch: int, precision: str, seconds: float) -> float:
    """Tile pixels a second, in millions."""
    found = find_model(model)
    network = load_network(found).cuda().to(memory_format=torch.channels_last)
    tiles = torch.rand(batch, len(found.card.bands), *found.card.tile, device="cuda")
    tiles = tiles.contiguous(memory_format=torch.channels_last)
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]

    def run(count: int) -> float:
        torch.cuda.synchronize()
        begin = time.perf_counter()
        with torch.inference_mode(), torch.autocast("cuda", dtype=kind, enabled=precision != "fp32"):
            for _ in range(count):
                network(tiles)
        torch.cuda.synchronize()
        return time.perf_counter() - begin

    run(10)
    count = max(10, int(10 * seconds / run(10)))
    return count * batch * found.card.tile[0] * found.card.tile[1] / run(count) / 1e6


def main() -> None:
    """The whole command, or the network alone."""
    given = arguments(__doc__, engine="torch", device="cuda", precision="bf16", megapixels=400, batch=16)
    if not torch.cuda.is_available():
        raise SystemExit("torch sees no GPU here; nothing was measured")
    if given.forward_only:
        print(forward_rate(given.model, given.batch, given.precision, given.forward_only))
    else:
        compare("gpu", given)


if __name__ == "__main__":
    sys.exit(main())
