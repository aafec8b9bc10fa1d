"""The three formats: how a graph is written to a file and how the file is run.

Every file holds a description beside the graph, JSON under the name `DESCRIPTION`: what pictures
the graph wants and what its numbers mean.
"""

from __future__ import annotations

import importlib
import json
import logging
import re
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
from .graph import DetectionGraph
from .traceable import traceable_kernels

DESCRIPTION = "samdetr.json"
OPSET = 18  # of ONNX
Runner = Callable[..., Sequence[Tensor]]


class Source:
    """A graph, traced no more often than its formats need.

    Args:
        graph: in evaluation mode.
        example: inputs to trace with. They must be several images, of whose height and width none
            equals another dimension: what is equal by chance is taken to be equal always.
        any_batch: if the number of images shall be free, else it is 1.
        description: what to write beside the graph.
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
        fixed = () if any_batch else (0,)
        self.axes = {
            name: {axis: label for axis, label in axes.items() if axis not in fixed}
            for name, axes in (*graph.inputs.axes.items(), *graph.outputs.axes.items())
        }
        self.input_names, self.output_names = list(graph.inputs.axes), list(graph.outputs.axes)
        self.description = json.dumps(description)

    @cached_property
    def program(self) -> ExportedProgram:
        """The graph by torch.export."""
        shapes = tuple({axis: Dim.DYNAMIC for axis in self.axes[x]} for x in self.input_names)
        with torch.no_grad(), traceable_kernels():
            return torch.export.export(
                self.graph, self.example, dynamic_shapes=shapes, strict=False
            )


def write_pt2(source: Source, path: Path) -> None:
    """An archive of torch.export."""
    torch.export.save(source.program, path, extra_files={DESCRIPTION: source.description})


def load_pt2(path: Path) -> Runner:
    """A module of PyTorch."""
    return torch.export.load(path).module()


def write_torchscript(source: Source, path: Path) -> None:
    """A trace through Detectron2's adapter."""
    adapter = TracingAdapter(source.graph, source.example)
    with traceable_kernels(), warnings.catch_warnings():
        # Of numbers that a trace keeps; here they are numbers of channels, queries and classes.
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(adapter, adapter.flattened_inputs, check_trace=False)
        torch.jit.save(traced, str(path), _extra_files={DESCRIPTION: source.description})


def load_torchscript(path: Path) -> Runner:
    """A module of PyTorch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # that TorchScript is deprecated
        return torch.jit.load(str(path))


def write_onnx(source: Source, path: Path) -> None:
    """A model of ONNX, checked by its own checker."""
    import onnx

    logging.getLogger("onnxscript").setLevel(logging.ERROR)  # what it did not optimise
    with torch.no_grad():
        exported = torch.onnx.export(
            source.program,
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=source.input_names,
            output_names=source.output_names,
        )
    assert exported is not None  # as it is by dynamo
    model = exported.model_proto
    name_axes(model.graph, source.axes)
    onnx.helper.set_model_props(model, {DESCRIPTION: source.description})
    onnx.save(model, str(path))
    onnx.checker.check_model(str(path))


def name_axes(graph: Any, axes: Mapping[str, Mapping[int, str]]) -> None:
    """Call the free axes of a graph of ONNX what they are instead of "s14", in place."""
    names = {}
    for value in graph.input:
        for axis, label in axes[value.name].items():
            names[value.type.tensor_type.shape.dim[axis].dim_param] = label
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                text = re.sub(r"\w+", lambda x: names.get(x[0], x[0]), dim.dim_param)
                dim.dim_param = text


def load_onnx(path: Path) -> Runner:
    """A session of ONNX Runtime, for tensors."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [x.name for x in session.get_inputs()]

    def run(*inputs: Tensor) -> list[Tensor]:
        feed = {name: x.numpy() for name, x in zip(names, inputs)}
        return [torch.from_numpy(x) for x in session.run(None, feed)]

    return run


class Format(NamedTuple):
    """A kind of file.

    Fields:
        write: a source to a path.
        load: a path to a function of the inputs that returns the outputs.
        needs: modules that are an extra of this package.
    """

    write: Callable[[Source, Path], None]
    load: Callable[[Path], Runner]
    needs: tuple[str, ...] = ()


FORMATS = {
    ".onnx": Format(write_onnx, load_onnx, ("onnx", "onnxscript", "onnxruntime")),
    ".pt2": Format(write_pt2, load_pt2),
    ".ts": Format(write_torchscript, load_torchscript),
}


def format_of(path: Path) -> Format:
    """The format that the suffix of a path names.

    Raises:
        ExportError: if it names none, or one for which a module is not installed.
    """
    if path.suffix not in FORMATS:
        raise ExportError(f"output {str(path)!r} must end in one of {', '.join(FORMATS)}")
    kind = FORMATS[path.suffix]
    for name in kind.needs:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ExportError(
                f"output {str(path)!r} needs {name} ({error}): run `pip install samdetr[export]`"
            ) from error
    return kind
