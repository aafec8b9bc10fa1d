"""Files of weights: every format holds the same, and reading one runs nothing."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from conversion import assert_same
from samdetr.convert import ConversionError, read_checkpoint, read_state_dict, save_model

FORMATS = ("pth", "pkl", "safetensors")
STOCK = """
import pickle, sys
sys.modules["samdetr"] = None  # importing it fails
import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

path, reference = sys.argv[1:]
wanted = np.load(reference)
model = nn.Module()
for name in wanted.files:
    *modules, last = name.split(".")
    parent = model
    for part in modules:
        if part not in dict(parent.named_children()):
            parent.add_module(part, nn.Module())
        parent = getattr(parent, part)
    parent.register_buffer(last, torch.full(wanted[name].shape, -1).to(torch.tensor(wanted[name])))
extras = DetectionCheckpointer(model).load(path)
state = model.state_dict()
assert set(state) == set(wanted.files)
for name in wanted.files:
    assert np.array_equal(state[name].numpy(), wanted[name]), name
try:
    import samdetr
except ImportError:
    print(*sorted(extras), extras["__author__"])
"""


def make_weights():
    """Tensors of several kinds, some of which share their memory."""
    whole = torch.randn(6, 3)
    return {
        "backbone.stem.conv1.weight": torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last),
        "head.low": whole[:2],
        "head.high": whole[2:],
        "head.again": whole[2:],
        "head.across": whole.t(),
        "head.count": torch.tensor(3),
        "head.halves": torch.randn(2).half(),
        "head.nothing": torch.zeros(0, 4),
    }


@pytest.mark.parametrize("file_format", FORMATS)
def test_every_format_gives_the_same_weights_back(file_format, tmp_path):
    weights = make_weights()
    save_model(weights, tmp_path / f"file.{file_format}")
    found = read_checkpoint(tmp_path / f"file.{file_format}", trusted=True)
    assert_same(found.weights, weights)
    assert not found.matching_heuristics


@pytest.mark.parametrize("file_format", FORMATS)
def test_the_wish_for_heuristics_comes_back(file_format, tmp_path):
    path = tmp_path / "weights"
    save_model(make_weights(), path, file_format=file_format, matching_heuristics=True)
    path = path.rename(path.with_suffix(f".{file_format}"))
    assert read_checkpoint(path, trusted=True).matching_heuristics


def test_bfloat16_is_float32_in_a_pickle_and_itself_elsewhere(tmp_path):
    weights = {"x": torch.randn(5).bfloat16()}
    for file_format in FORMATS:
        path = tmp_path / f"file.{file_format}"
        save_model(weights, path)
        (found,) = read_checkpoint(path, trusted=True).weights.values()
        assert found.dtype == (torch.float32 if file_format == "pkl" else torch.bfloat16)
        assert torch.equal(found, weights["x"].to(found.dtype))


def test_a_zoo_file_is_plain_arrays_with_an_author(tmp_path):
    weights = make_weights()
    save_model(weights, tmp_path / "file.pkl", author="me")
    content = pickle.loads((tmp_path / "file.pkl").read_bytes())
    assert set(content) == {"model", "__author__"} and content["__author__"] == "me"
    for name, tensor in weights.items():
        assert type(content["model"][name]) is np.ndarray
        assert np.array_equal(content["model"][name], tensor.numpy())


@pytest.mark.slow
def test_a_stock_checkpointer_reads_a_zoo_file_where_this_package_cannot_be_imported(tmp_path):
    weights = make_weights()
    save_model(weights, tmp_path / "file.pkl")
    np.savez(tmp_path / "wanted.npz", **{k: v.numpy() for k, v in weights.items()})
    command = [sys.executable, "-c", STOCK, tmp_path / "file.pkl", tmp_path / "wanted.npz"]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == "__author__ samdetr\n"


def test_safetensors_say_what_they_are(tmp_path):
    from safetensors import safe_open

    path = tmp_path / "file.safetensors"
    save_model(make_weights(), path, author="me", description="SAM-DETR", matching_heuristics=True)
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {
            "format": "pt",
            "__author__": "me",
            "matching_heuristics": "True",
            "description": "SAM-DETR",
        }


class Hostile:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def hostile_pickle(path: Path, mark: Path) -> None:
    path.write_bytes(pickle.dumps({"model": {"x": np.zeros(1)}, "more": Hostile(mark)}))


def hostile_torch(path: Path, mark: Path) -> None:
    torch.save({"model": {"x": torch.zeros(1)}, "more": Hostile(mark)}, path)


@pytest.mark.parametrize(
    ("suffix", "write"),
    [(".pth", hostile_torch), (".pth", hostile_pickle), (".pkl", hostile_pickle)],
)
def test_nothing_that_a_file_holds_is_run(suffix, write, tmp_path):
    path, mark = tmp_path / f"file{suffix}", tmp_path / "mark"
    write(path, mark)
    with pytest.raises(ConversionError, match=r"file\.p.. cannot be read: "):
        read_checkpoint(path, trusted=True)
    assert not mark.exists()
    with path.open("rb") as file:  # the file does what it is said to do
        (pickle.load if write is hostile_pickle else unsafe_load)(file)
    assert mark.exists()


def unsafe_load(file):
    return torch.load(file, weights_only=False)


def test_a_refused_class_is_named(tmp_path):
    torch.save({"model": {"x": torch.zeros(1)}, "more": Hostile(tmp_path)}, tmp_path / "file.pth")
    with pytest.raises(ConversionError, match="it holds .*, which is not a tensor and could run"):
        read_state_dict(tmp_path / "file.pth")


def test_a_pickle_is_read_just_where_it_is_trusted(tmp_path):
    save_model(make_weights(), tmp_path / "file.pkl")
    with pytest.raises(
        ConversionError, match=r"file\.pkl is a pickle, .* can run code .*--trusted"
    ):
        read_state_dict(tmp_path / "file.pkl")


@pytest.mark.parametrize("suffix", [".pth", ".pkl", ".safetensors"])
@pytest.mark.parametrize(
    "content", [b"", b"no checkpoint", b"PK\x03\x04 half a file", b"\x80\x04}"]
)
def test_a_damaged_file_is_one_sentence_with_its_name(suffix, content, tmp_path):
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(content)
    with pytest.raises(ConversionError) as error:
        read_checkpoint(path, trusted=True)
    assert str(error.value).startswith(f"{path} ")
    assert "\n" not in str(error.value) and "weights_only" not in str(error.value)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_a_file_cut_short_is_an_error(part, tmp_path):
    path = tmp_path / "file.pth"
    torch.save({"model": {"x": torch.randn(2000)}}, path)
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    with pytest.raises(ConversionError, match=r"file\.pth cannot be read"):
        read_state_dict(path)


@pytest.mark.parametrize("content", [{}, {"model": {}}, {"model": "x"}, [1], {"model": {"a": 1}}])
def test_a_file_without_weights_is_an_error(content, tmp_path):
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(ConversionError, match="holds no state dict"):
        read_state_dict(tmp_path / "file.pth")


def test_parameters_come_back_without_gradients(tmp_path):
    layer = torch.nn.Linear(2, 3)
    torch.save(dict(layer.named_parameters()), tmp_path / "file.pth")
    found = read_state_dict(tmp_path / "file.pth")
    assert_same(found, {"weight": layer.weight.detach(), "bias": layer.bias.detach()})
    assert not any(x.requires_grad for x in found.values())


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_failure_on_the_way_leaves_the_folder_as_it_was(file_format, tmp_path, monkeypatch):
    path = tmp_path / f"file.{file_format}"
    path.write_bytes(b"what was there")

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    (tmp_path / f".file.{file_format}.{os.getpid()}.tmp").write_bytes(b"half")
    for target in ("torch.save", "pickle.dump", "pathlib.Path.write_bytes"):
        monkeypatch.setattr(target, full)
    with pytest.raises(
        ConversionError, match=rf"file\.{file_format} cannot be written: .*No space"
    ):
        save_model(make_weights(), path)
    assert [x.name for x in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == b"what was there"


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("file", r"must end in \.pth, \.pkl, \.safetensors"),
        ("file.pt", r"must end in \.pth"),
        ("nowhere/file.pth", "nowhere is not a folder"),
        ("taken.pth/file.pth", "taken.pth is not a folder"),
        ("folder.pth", "it is a folder"),
    ],
)
def test_a_path_that_cannot_be_written_is_an_error(name, complaint, tmp_path):
    (tmp_path / "folder.pth").mkdir()
    (tmp_path / "taken.pth").write_bytes(b"")
    with pytest.raises(ConversionError, match=complaint):
        save_model(make_weights(), tmp_path / name)
    assert sorted(x.name for x in tmp_path.iterdir()) == ["folder.pth", "taken.pth"]
