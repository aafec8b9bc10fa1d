"""All configs by name, and what is known about each, in the manner of Detectron2's `model_zoo`.

    from samdetr import model_zoo

    model_zoo.list("coco/*_dn_*")
    cfg = model_zoo.get_config("coco/sam_detr_pp_r50_smca_dn_12ep")
    model = model_zoo.get("mini/sam_detr_smca", device="cpu").eval()
    model_zoo.row("mini/sam_detr_smca").classes

`python -m samdetr.model_zoo` prints the table.
"""

from .rows import PaperFigure, Row, row, table
from .zoo import UnknownConfigError, get, get_checkpoint, get_config, get_config_file, load_any
from .zoo import names as list

__all__ = [
    "PaperFigure",
    "Row",
    "UnknownConfigError",
    "get",
    "get_checkpoint",
    "get_config",
    "get_config_file",
    "list",
    "load_any",
    "row",
    "table",
]
