"""SAM-DETR and SAM-DETR++ for Detectron2: detection transformers with semantic-aligned matching."""

from .requirements import check

__version__ = "0.1.0"

check()
