"""Export to ONNX, torch.export and TorchScript; every file is compared with its model."""

from ..errors import DisagreementError, ExportError
from .exporter import MIN_SIZE, Check, Settings, export_config, export_model
from .formats import DESCRIPTION, FORMATS, OPSET
from .graph import INPUTS, OUTPUTS, DetectionGraph, Difference
