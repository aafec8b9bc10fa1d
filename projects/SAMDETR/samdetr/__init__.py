"""SAM-DETR and SAM-DETR++ for Detectron2: detection transformers with semantic-aligned matching."""

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import model_zoo
    from .predictor import Predictor

__all__ = ["Predictor", "model_zoo"]
__version__ = "0.1.0"

# Warnings about calls inside libraries, which users cannot change. Some are emitted at import.
for _category, _module, _message in (
    (FutureWarning, "torch.jit", "`torch.jit.script` is deprecated"),
    (FutureWarning, "detectron2.engine", "`broadcast_buffers` is deprecated"),
    (UserWarning, "torch.functional", "torch.meshgrid: in an upcoming release"),
    (UserWarning, "torch.optim.lr_scheduler", "Detected call of `lr_scheduler.step"),
    (UserWarning, "detectron2", "pkg_resources is deprecated as an API"),
):
    warnings.filterwarnings("ignore", _message, _category, _module)

# pip cannot install Detectron2, which is not on the package index, nor see that a torchvision was
# built for another torch, which raises a RuntimeError at import.
for _name in ("torch", "torchvision", "detectron2.config"):
    try:
        import_module(_name)
    except (ImportError, RuntimeError) as error:
        raise ImportError(
            f"samdetr cannot import {_name.partition('.')[0]} ({error}): run tools/setup_env.sh, "
            "or install torch and torchvision of versions that belong together and then Detectron2 "
            "(`pip install --no-build-isolation git+https://github.com/facebookresearch/detectron2`)"
        ) from error


def __getattr__(name: str) -> Any:
    """Import a part of the public interface when it is first used: `import samdetr` stays fast."""
    if name == "Predictor":
        return import_module(".predictor", __name__).Predictor
    if name == "model_zoo":
        return import_module(".model_zoo", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
