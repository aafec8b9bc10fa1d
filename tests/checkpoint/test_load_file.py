"""Files of weights: every format that people have is read, and none of them runs code."""

import argparse
import io
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.testing import assert_close

from samdetr.checkpoint import load_file
from samdetr.errors import CheckpointError, MissingCheckpointError

WEIGHTS = {"weight": torch.rand(2, 3), "bias": torch.rand(2).double(), "steps": torch.tensor(3)}
ARRAYS = {name: value.numpy() for name, value in WEIGHTS.items()}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The working folder, in which hostile files would write a marker."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert not (tmp_path / "marker").exists()


def saved(content):
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


@pytest.mark.parametrize("content", [WEIGHTS, {"model": WEIGHTS, "args": argparse.Namespace(lr=1)}])
def test_a_state_dict_is_read_alone_and_from_a_training_of_detr(content):
    Path("file.pth").write_bytes(saved(content))
    assert_close(load_file("file.pth")["model"], WEIGHTS, rtol=0, atol=0)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("core", ["numpy._core", "numpy.core"])
def test_a_pickle_of_the_model_zoo_is_read_whichever_numpy_wrote_it(core, protocol):
    fortran = {"map": np.asfortranarray(ARRAYS["weight"]), "row": ARRAYS["weight"][:, ::2]}
    scale = np.float32(0.5)
    zoo = {"model": {**ARRAYS, **fortran}, "__author__": "us", "scale": scale}
    text = pickle.dumps(zoo, protocol)
    if protocol < 4:  # later ones have the length of the name before it
        text = re.sub(rb"numpy\._?core", core.encode(), text)
    Path("zoo.pkl").write_bytes(text)
    found = load_file("zoo.pkl")
    assert_close(dict(found["model"]), {**WEIGHTS, "map": WEIGHTS["weight"], "row":
        WEIGHTS["weight"][:, ::2]}, rtol=0, atol=0)  # fmt: skip
    assert found["scale"] == scale and "matching_heuristics" not in found
    found["model"]["weight"].zero_()  # its memory is writable


def test_files_of_detectron_and_of_pycls_are_matched_by_heuristics():
    blobs = {"conv1_w": ARRAYS["weight"], "conv1_w_momentum": ARRAYS["weight"]}
    Path("caffe.pkl").write_bytes(pickle.dumps({"blobs": blobs}, 2))
    state = {"stem.weight": WEIGHTS["weight"], "stem.bn.num_batches_tracked": torch.tensor(1)}
    torch.save({"model_state": state, "epoch": 1}, "regnet.pyth")
    caffe, pycls = load_file("caffe.pkl"), load_file("regnet.pyth")
    assert list(caffe["model"]) == ["conv1_w"] and list(pycls["model"]) == ["stem.weight"]
    assert caffe["__author__"] == "Caffe2"
    assert caffe["matching_heuristics"] and pycls["matching_heuristics"]


@pytest.mark.parametrize("heuristics", [True, False])
def test_safetensors_are_read_with_their_flag(heuristics):
    save_file(WEIGHTS, "file.safetensors", {"matching_heuristics": str(heuristics)})
    found = load_file("file.safetensors")
    assert_close(found["model"], WEIGHTS, rtol=0, atol=0)
    assert found["matching_heuristics"] is heuristics


class Hostile:
    """Writes a marker when it is unpickled without restrictions."""

    def __reduce__(self):
        return os.system, ("echo > marker",)


HOSTILE = pickle.dumps(Hostile(), 2)
FILES = {
    "a pickle": HOSTILE,
    "beside arrays": pickle.dumps({"model": ARRAYS, "__author__": "us", "cfg": Hostile()}),
    "an array of objects": pickle.dumps(
        {"model": {"weight": np.array([Hostile()], dtype=object)}, "__author__": "us"}
    ),
    "trainer": saved({"model": WEIGHTS, "trainer": {"state": [Hostile()]}}),
    "command line": saved({"model": WEIGHTS, "args": argparse.Namespace(lr=Hostile())}),
    "a module": saved(nn.Linear(2, 2)),
}


@pytest.mark.parametrize("suffix", [".pth", ".pkl", ".pyth", ".safetensors"])
@pytest.mark.parametrize("name", FILES)
def test_no_file_runs_code(name, suffix):
    Path(f"file{suffix}").write_bytes(FILES[name])
    with pytest.raises(CheckpointError, match=rf"file\{suffix} cannot be read as") as error:
        load_file(f"file{suffix}")
    assert "\n" not in str(error.value)


def test_what_would_run_is_named():
    Path("file.pkl").write_bytes(HOSTILE)
    with pytest.raises(CheckpointError, match=r"holds \w+\.system, which is not an array"):
        load_file("file.pkl")
    Path("file.pth").write_bytes(saved({"model": WEIGHTS, "args": Hostile()}))
    with pytest.raises(CheckpointError, match=r"holds \w+\.system, which is not a tensor"):
        load_file("file.pth")


@pytest.mark.parametrize(
    "content",
    [5, [torch.ones(1)], {}, {"model": 5}, {"model": {"weight": "text"}}, {5: torch.ones(1)}],
    ids=str,
)
def test_a_file_without_weights_is_an_error(content):
    torch.save(content, "file.pth")
    with pytest.raises(CheckpointError, match=r"file\.pth holds no weights"):
        load_file("file.pth")


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 half a file"])
@pytest.mark.parametrize("suffix", [".pth", ".pkl"])
def test_a_broken_file_is_named(content, suffix):
    Path(f"broken{suffix}").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"broken\{suffix} cannot be read as a checkpoint"):
        load_file(f"broken{suffix}")


@pytest.mark.parametrize(
    "path", ["nowhere/model.pth", "http://127.0.0.1:9/model.pth", "detectron2://R-50.pkl"]
)
def test_a_missing_file_is_an_error_of_its_own(path):
    with pytest.raises(MissingCheckpointError, match=re.escape(path)):
        load_file(path)
