"""Models from elsewhere: `hf://OWNER/NAME` of Hugging Face, `torchvision://NAME` with published weights.

Both are downloaded once. What Hugging Face's own library fetched lies in its cache, and its environment
variables hold (HF_HOME, HF_TOKEN, HF_HUB_OFFLINE); torchvision's weights lie in torch's cache, and as a
model file with its card in ours.
"""

from __future__ import annotations

import io
from contextlib import redirect_stderr
from functools import lru_cache
from pathlib import Path

from tilesegment.errors import ModelError, SettingsError
from tilesegment.model.cache import cached
from tilesegment.model.card import Card, ModelClass, default_colours
from tilesegment.settings import nearest

_HF, _TORCHVISION = "hf://", "torchvision://"
# Nothing that holds code.
_FILES = ("*.safetensors", "config.json")
_COCO = "COCO_WITH_VOC_LABELS_V1"
# That of torchvision's own evaluation.
_SIDE = 520


def is_elsewhere(name: str) -> bool:
    """Whether a name is that of a model to be downloaded."""
    return name.startswith((_HF, _TORCHVISION))


def downloaded(name: str) -> Path:
    """The folder or file of a model from elsewhere. Raises ModelError where it cannot be had."""
    return _from_hf(name) if name.startswith(_HF) else _from_torchvision(name)


# One run is of one model, whatever is pushed meanwhile.
@lru_cache(maxsize=8)
def _from_hf(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"--model {name}: this needs huggingface_hub, which is not installed: pip install "
            "huggingface_hub"
        ) from error
    owner, _, revision = name.removeprefix(_HF).partition("@")
    try:
        folder = Path(snapshot_download(owner, revision=revision or None, allow_patterns=list(_FILES)))
    except (OSError, ValueError) as error:
        words = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"--model {name}: cannot be had from Hugging Face ({words})") from error
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(f"--model {name}: there is no .safetensors file in it")
    # Other libraries' folders have a configuration; one of ours has its card in the file.
    return folder if (folder / "config.json").is_file() or len(files) > 1 else files[0]


def _from_torchvision(name: str) -> Path:
    kind = name.removeprefix(_TORCHVISION)

    def make(path: Path) -> None:
        try:
            from torchvision.models import get_model_weights, list_models, segmentation
        except ModuleNotFoundError as error:
            raise SettingsError(
                f"--model {name}: this takes PyTorch; pip install 'tilesegment[torch]'"
            ) from error
        from tilesegment.model.store import save_model

        known = list_models(module=segmentation)
        if kind not in known:
            raise ModelError(
                f"--model {name}: torchvision has no segmentation model {kind!r}{nearest(kind, known)}"
            )
        weights = get_model_weights(kind)[_COCO]
        try:
            # Torch says there that it begins.
            with redirect_stderr(io.StringIO()):
                state = weights.get_state_dict(progress=False, check_hash=True)
        except (OSError, RuntimeError) as error:
            words = str(error).splitlines()[0]
            raise ModelError(
                f"--model {name}: its weights cannot be had ({words}); go online once"
            ) from error
        names = [entry.strip("_") for entry in weights.meta["categories"]]
        card = Card(
            name=kind,
            architecture=f"torchvision.{kind}",
            encoder=kind.rpartition("_")[2],
            classes=tuple(map(ModelClass, names, default_colours(len(names)))),
            image_size=(_SIDE, _SIDE),
            tile=(_SIDE, _SIDE),
            license="BSD-3-Clause (weights of torchvision); data: COCO 2017, CC BY 4.0",
            data=("COCO 2017, categories of Pascal VOC",),
            credits=("torchvision",),
        )
        kept = {
            f"model.{key}": value.numpy() for key, value in state.items() if "aux_classifier" not in key
        }
        save_model(path, kept, card)

    return cached(f"torchvision-{kind}.safetensors", make)
