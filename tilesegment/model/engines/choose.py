"""Which engine predicts, decided without loading one."""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import importlib.util
import logging
import sys
from dataclasses import dataclass

from tilesegment.errors import SettingsError
from tilesegment.settings import ENGINES

PRECISIONS = ("auto", "fp32", "bf16", "fp16", "int8")
_log = logging.getLogger("tilesegment")
_PACKAGES = {"torch": "torch", "openvino": "openvino", "onnx": "onnxruntime"}


@functools.cache
def version_of(package: str) -> str:
    """That of an installed package, which is read from the disk once."""
    return importlib.metadata.version(package)


@dataclass(frozen=True)
class EngineChoice:
    """An engine with its device and precision; `auto` is left only where the engine itself decides.
    compiled: torch compiles the network."""

    engine: str
    device: str
    precision: str
    compiled: bool = False

    @property
    def version(self) -> str:
        """The engine's package and version."""
        package = _PACKAGES[self.engine]
        return f"{package} {version_of(package)}{' compiled' if self.compiled else ''}"


def choose_engine(
    engine: str,
    device: str,
    precision: str,
    quantized: bool = False,
    graph: bool = False,
    compiled: bool = False,
) -> EngineChoice:
    """The engine for what was asked. quantized: the model has a graph in int8; graph: it is an ONNX file;
    compiled: the network is to be compiled, which is torch's.

    `auto` takes torch where there is a GPU or one is named, else OpenVINO; of the two, where nothing is
    said, the one that is installed (torch is an extra, and OpenVINO has no wheels for some platforms). On a
    CPU, int8 is taken where model and CPU have it, else bf16 where it is native.

    Raises SettingsError where what was asked is not to be had.
    """
    if engine not in ENGINES:
        raise SettingsError(f"--engine {engine!r}: use one of {', '.join(ENGINES)}")
    if precision not in PRECISIONS:
        raise SettingsError(f"--precision {precision!r}: use one of {', '.join(PRECISIONS)}")
    if engine == "auto" and graph:
        engine = "openvino" if importlib.util.find_spec("openvino") is not None else "onnx"
    elif engine == "auto":
        engine = "torch" if compiled else _best_engine(device, precision)
    if compiled and engine != "torch":
        raise SettingsError(f"--compile is for --engine torch; {engine} compiles its own graph anyway")
    if graph and engine == "torch":
        raise SettingsError("--engine torch: an ONNX file is computed by openvino or onnx")
    if importlib.util.find_spec(_PACKAGES[engine]) is None:
        raise SettingsError(f"--engine {engine}: it is not installed; pip install 'tilesegment[{engine}]'")
    if engine == "torch":
        if precision == "int8":
            raise SettingsError("--precision int8 is for --engine openvino on the CPU")
        return EngineChoice(engine, device, precision, compiled)
    if device not in ("auto", "cpu"):
        raise SettingsError(
            f"--engine {engine} runs on the CPU here; --device {device} needs --engine torch"
        )
    known = {"onnx": ("auto", "fp32"), "openvino": ("auto", "fp32", "bf16", "int8")}[engine]
    if precision not in known:
        raise SettingsError(f"--engine {engine} computes in {' or '.join(known[1:])}, not in {precision}")
    if engine == "openvino":
        from tilesegment.model.engines.openvino import fast_int8, native_bf16

        if precision == "auto":
            fastest = "bf16" if native_bf16() else "fp32"
            precision = "int8" if quantized and fast_int8() else fastest
        elif precision == "int8" and not quantized:
            raise SettingsError("--precision int8: the model has no graph in it; make one with quantize")
        elif precision == "bf16" and not native_bf16():
            raise SettingsError("--precision bf16: this CPU computes it by emulation only; use fp32")
    return EngineChoice(engine, "cpu", "fp32" if precision == "auto" else precision)


def _best_engine(device: str, precision: str) -> str:
    has = {name: importlib.util.find_spec(package) is not None for name, package in _PACKAGES.items()}
    gpu = gpu_count() > 0 or sys.platform == "darwin"
    if not has["openvino"] or precision == "fp16" or device not in ("auto", "cpu"):
        return "torch"
    if device == "auto" and gpu and not has["torch"]:
        _log.warning("a GPU is not used: that takes PyTorch; pip install 'tilesegment[torch]'")
    wanted = device == "auto" and gpu and has["torch"] and precision != "int8"
    return "torch" if wanted else "openvino"


def gpu_count() -> int:
    """CUDA devices as the driver counts them; torch would take seconds to say so."""
    for name in ("libcuda.so.1", "nvcuda.dll"):
        try:
            driver = ctypes.CDLL(name)
        except OSError:
            continue
        count = ctypes.c_int(0)
        if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0:
            return count.value
    return 0
