"""File formats: how a graph is written, and how a file is loaded and run.

Every file carries a JSON description named `DESCRIPTION`: the images that the graph expects and the
meaning of its outputs.
"""

from __future__ import annotations

import importlib
import json
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from detectron2.export import TracingAdapter
from torch import Tensor
from torch.export import Dim, ExportedProgram

from ..errors import ExportError
from .graph import DetectionGraph, traceable_kernels

DESCRIPTION = "samdetr.json"
OPSET = 18  # of ONNX
Runner = Callable[..., Sequence[Tensor]]


class Source:
    """A graph to be written to one or several files; torch.export traces it once for all.

    Args:
        graph: in evaluation mode.
        example: inputs for tracing. They must be several images whose height and width equal no
            other dimension: torch.export takes equal dimensions to be equal for all inputs.
        any_batch: leave the number of images free; otherwise it is 1.
        description: content of the JSON description.
    """

    def __init__(
        self,
        graph: DetectionGraph,
        example: tuple[Tensor, ...],
        any_batch: bool,
        description: Mapping[str, Any],
    ):
        self.graph = graph
        self.example = example if any_batch else tuple(x[:1] for x in example)
        self.axes = tuple(
            {axis: name for axis, name in axes.items() if any_batch or name != "batch"}
            for axes in graph.inputs.axes.values()
        )
        self.description = json.dumps(description)

    @cached_property
    def program(self) -> ExportedProgram:
        """The graph as traced by torch.export."""
        shapes = tuple(dict.fromkeys(axes, Dim.DYNAMIC) for axes in self.axes)
        with torch.no_grad(), traceable_kernels():
            return torch.export.export(
                self.graph, self.example, dynamic_shapes=shapes, strict=False
            )


def write_pt2(source: Source, path: Path) -> None:
    """Write an archive of torch.export."""
    torch.export.save(source.program, path, extra_files={DESCRIPTION: source.description})


def write_torchscript(source: Source, path: Path) -> None:
    """Write a TorchScript trace, made through Detectron2's adapter."""
    adapter = TracingAdapter(source.graph, source.example)
    with torch.no_grad(), traceable_kernels(), warnings.catch_warnings():
        # About constants in the trace; here they are numbers of channels, queries and classes.
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(adapter, adapter.flattened_inputs, check_trace=False)
        torch.jit.save(traced, str(path), _extra_files={DESCRIPTION: source.description})


def load_torchscript(path: Path) -> Runner:
    """Load a TorchScript module."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # TorchScript is deprecated
        return torch.jit.load(str(path))


def write_onnx(source: Source, path: Path) -> None:
    """Write an ONNX model and run ONNX's checker on it."""
    import onnx

    logging.getLogger("onnxscript").setLevel(logging.ERROR)  # it reports skipped optimisations
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "# The axis name")  # several inputs have a "batch"
        exported = torch.onnx.export(
            source.program,
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=list(source.graph.inputs.axes),
            output_names=list(source.graph.outputs.axes),
            dynamic_shapes=source.axes,  # names of the free axes
        )
    assert exported is not None  # None only without dynamo
    model = exported.model_proto
    onnx.helper.set_model_props(model, {DESCRIPTION: source.description})
    onnx.save(model, str(path))
    onnx.checker.check_model(str(path))


def load_onnx(path: Path) -> Runner:
    """Load an ONNX model into ONNX Runtime; it takes and returns tensors."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [x.name for x in session.get_inputs()]

    def run(*inputs: Tensor) -> list[Tensor]:
        feed = {name: x.numpy() for name, x in zip(names, inputs)}
        return [torch.from_numpy(x) for x in session.run(None, feed)]

    return run


class Format(NamedTuple):
    """A file format."""

    write: Callable[[Source, Path], None]
    load: Callable[[Path], Runner]  # as a function from inputs to outputs
    needs: tuple[str, ...] = ()  # modules of the `export` extra of this package


FORMATS = {
    ".onnx": Format(write_onnx, load_onnx, ("onnx", "onnxscript", "onnxruntime")),
    ".pt2": Format(write_pt2, lambda path: torch.export.load(path).module()),
    ".ts": Format(write_torchscript, load_torchscript),
}


def format_of(path: Path) -> Format:
    """Return the format for the suffix of a path.

    Raises:
        ExportError: if there is none, or if a module it needs is not installed.
    """
    if path.suffix not in FORMATS:
        raise ExportError(f"output {str(path)!r} must end in one of {', '.join(FORMATS)}")
    file_format = FORMATS[path.suffix]
    for name in file_format.needs:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ExportError(
                f"output {str(path)!r} needs {name} ({error}): run `pip install samdetr[export]`"
            ) from error
    return file_format
