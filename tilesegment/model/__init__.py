"""What a model is: its card, its weights, its preprocessing and the engines that run it."""

import sys

# OpenVINO and NNCF report to their makers when they are imported or used, and ask nobody. Without this
# package, which is optional to both, they say nothing.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
