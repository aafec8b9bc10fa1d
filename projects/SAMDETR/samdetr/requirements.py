"""What pip cannot promise: a Detectron2 that is Detectron2, and a torchvision that fits torch.

Detectron2 is not on the package index, so `pip install samdetr` cannot bring it, and torchvision's
operators load only beside the torch they were built for. Both are checked once, at import.
"""

from __future__ import annotations

import importlib
import inspect
from types import ModuleType

SETUP = (
    "run tools/setup_env.sh, or `pip install --no-build-isolation "
    "git+https://github.com/facebookresearch/detectron2`"
)


def check() -> None:
    """Import torch, torchvision and Detectron2.

    Raises:
        ImportError: one sentence that says which of them is missing or does not fit, and what to
            run.
    """
    torch = _import("torch", "run tools/setup_env.sh, or `pip install torch torchvision`")
    fitting = f"run `pip install torch=={torch.__version__} torchvision`"
    try:
        _import("torchvision", fitting)
    except RuntimeError as error:  # "operator torchvision::nms does not exist"
        raise ImportError(
            f"torchvision does not fit torch {torch.__version__} ({error}): {fitting}"
        ) from error
    _check_detectron2(_import("detectron2", SETUP))


def _import(name: str, remedy: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"samdetr needs {name}, and Python finds no module {error.name!r}: {remedy}"
        ) from error


def _check_detectron2(detectron2: ModuleType) -> None:
    place = getattr(detectron2, "__file__", None) or list(detectron2.__path__)
    # A folder named detectron2 beside the script, such as a fresh clone, imports as a package too.
    if not hasattr(detectron2, "__version__"):
        raise ImportError(
            f"samdetr needs Detectron2, and the detectron2 that Python finds at {place} is "
            f"something else: move it out of the way, then {SETUP}"
        )
    build = _import("detectron2.solver.build", SETUP)
    # Versions do not tell: 0.6 stood from 2021 to 2026. This argument came in the middle of 2022.
    if "lr_factor_func" not in inspect.signature(build.get_default_optimizer_params).parameters:
        raise ImportError(
            f"samdetr needs Detectron2 of July 2022 or later, and the one at {place} (version "
            f"{detectron2.__version__}) is older: {SETUP}"
        )
