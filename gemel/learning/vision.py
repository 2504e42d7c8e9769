"""torchvision beside a CPU-only torch, as gateways have it.

torchvision's wheels are compiled against a CUDA build of torch. Beside a CPU build their operators do not load, and
then `import torchvision` itself fails, because it registers shapes for two operators that nobody has declared
(`operator torchvision::nms does not exist`, seen with torchvision 0.28.0 and torch 2.13.0+cpu). Declaring the two
lets the import go through: datasets, transforms and models work, only box operators (detection) do not.
"""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


@cache
def import_torchvision() -> ModuleType:
    """The torchvision module, importable with and without its compiled operators.

    Import it through here before anything else imports it. Raises ModuleNotFoundError where the extra `vision` is
    not installed.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("torchvision is not installed: pip install 'gemel[vision]'", name="torchvision")
    try:
        torch.ops.load_library(str(Path(spec.origin).with_name("_C.so")))
    except OSError:
        _declare_operators()
    return importlib.import_module("torchvision")


@cache
def _declare_operators() -> torch.library.Library:
    # Kept by the cache: a library's declarations go when the object goes.
    library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        library.define(schema)
    return library
