"""Detection on images, videos and a camera, drawn and as COCO results; `demo.py` is its command.

Needs the extra `draw`.
"""

from ..inputs import InputError

try:
    from .detect import Report, draw, run
    from .plan import Plan, plan_camera, plan_files
except ModuleNotFoundError as error:
    raise ImportError(f"drawing needs {error.name}: run `pip install samdetr[draw]`") from error

__all__ = ["InputError", "Plan", "Report", "draw", "plan_camera", "plan_files", "run"]
