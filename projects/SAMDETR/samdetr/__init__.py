"""SAM-DETR and SAM-DETR++ for Detectron2: detection transformers with semantic-aligned matching."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .requirements import check

if TYPE_CHECKING:
    from . import model_zoo
    from .predictor import Predictor

__all__ = ["Predictor", "model_zoo"]
__version__ = "0.1.0"

check()


def __getattr__(name: str) -> Any:
    """What is imported when it is first asked for, so that `import samdetr` stays quick."""
    if name == "Predictor":
        return import_module(".predictor", __name__).Predictor
    if name == "model_zoo":
        return import_module(".model_zoo", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
