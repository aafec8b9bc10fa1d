"""Export to ONNX, torch.export and TorchScript, each file compared with the model it is from."""

from ..errors import DisagreementError, ExportError
from .agreement import PIXEL_TOLERANCE, SCORE_TOLERANCE, Difference
from .formats import DESCRIPTION, FORMATS, OPSET
from .graph import INPUTS, OUTPUTS, DetectionGraph
from .run import MIN_SIZE, Check, Settings, export_config, export_model

__all__ = [
    "DESCRIPTION",
    "FORMATS",
    "INPUTS",
    "MIN_SIZE",
    "OPSET",
    "OUTPUTS",
    "PIXEL_TOLERANCE",
    "SCORE_TOLERANCE",
    "Check",
    "DetectionGraph",
    "Difference",
    "DisagreementError",
    "ExportError",
    "Settings",
    "export_config",
    "export_model",
]
