"""What SECURITY.md promises of checkpoints: files from strangers run nothing."""

import argparse
import io
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hostile import Hostile, marking
from samdetr.checkpoint import Checkpointer, CheckpointError, InitialCheckpointer
from samdetr.convert import read_checkpoint


@pytest.fixture
def marker(tmp_path, monkeypatch):
    yield from marking(tmp_path, monkeypatch)


def pickled(content):
    return pickle.dumps(content, protocol=2)


def zipped(data):
    """A file as torch.save writes it, with another pickle inside."""
    file = io.BytesIO()
    torch.save({"model": {"weight": torch.ones(2)}}, file)
    out = io.BytesIO()
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(out, "w") as target:
        for name in source.namelist():
            content = data if name.endswith("data.pkl") else source.read(name)
            target.writestr(name, content)
        target.writestr("../escaped", b"echo")
    return out.getvalue()


def tarred(data):
    """A file as torch.save wrote it long ago."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in ("sys_info", "pickle", "tensors", "storages", "../escaped"):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def scripted():
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), file)
    return file.getvalue()


def saved(content):
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


WEIGHTS = {"weight": torch.ones(2, 2), "bias": torch.ones(2)}
ARRAYS = {"model": {x: y.numpy() for x, y in WEIGHTS.items()}, "__author__": "somebody"}
FILES = {
    "a pickle": lambda: pickled(Hostile()),
    "a pickle beside arrays": lambda: pickled({**ARRAYS, "config": Hostile()}),
    "an array of objects": lambda: pickled(
        {**ARRAYS, "model": {"weight": np.array([Hostile()], dtype=object)}}
    ),
    "optimiser": lambda: saved({"model": WEIGHTS, "optimizer": Hostile()}),
    "trainer": lambda: saved({"model": WEIGHTS, "trainer": {"state": [Hostile()]}}),
    "command line": lambda: saved({"model": WEIGHTS, "args": argparse.Namespace(lr=Hostile())}),
    "old format": lambda: pickled(0x1950A86A20F9469CFC6C) + pickled(1001) + pickled(Hostile()),
    "tar": lambda: tarred(pickled(Hostile())),
    "zip": lambda: zipped(pickled(Hostile())),
    "TorchScript": scripted,
    "a module": lambda: saved(nn.Linear(2, 2)),
}


@pytest.mark.parametrize("suffix", [".pth", ".pkl", ".pyth", ".npy", ".safetensors", ".pt"])
@pytest.mark.parametrize("name", FILES)
def test_a_checkpoint_runs_nothing(marker, name, suffix):
    Path(f"file{suffix}").write_bytes(FILES[name]())
    for kind in (Checkpointer, InitialCheckpointer):
        model = nn.Linear(2, 2)
        before = model.weight.clone()
        with pytest.raises(CheckpointError, match=rf"file\{suffix}"):
            kind(model).load(f"file{suffix}")
        assert torch.equal(model.weight, before)
    with pytest.raises(Exception, match=rf"file\{suffix}"):
        read_checkpoint(f"file{suffix}", trusted=True)
    assert not Path("../escaped").exists()


def test_the_hostile_pickle_does_what_it_says_where_it_may(tmp_path, monkeypatch):
    """Were it not so, the test before would prove nothing."""
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickled(Hostile()))
    assert Path("marker").exists()


@pytest.mark.parametrize("core", ["numpy._core", "numpy.core"])
def test_pickles_of_detectron2_and_detectron_are_read(marker, core):
    """With the names that numpy had before version 2 too."""
    text = pickle.dumps(ARRAYS, protocol=0).replace(b"numpy._core", core.encode())
    Path("zoo.pkl").write_bytes(text)
    Path("old.pkl").write_bytes(
        pickled({"blobs": {**ARRAYS["model"], "weight_momentum": np.ones(1)}})
    )

    model = nn.Linear(2, 2)
    Checkpointer(model).load("zoo.pkl")
    assert torch.equal(model.weight, WEIGHTS["weight"])
    assert list(Checkpointer(model)._read("old.pkl")["model"]) == ["weight", "bias"]


@pytest.mark.parametrize(
    "content",
    [
        5,
        [torch.ones(1)],
        {},
        {"model": 5},
        {"model": {"weight": "text"}},
        {"model": {5: torch.ones(1)}},
        {"model": [("weight", torch.ones(1))]},
    ],
    ids=str,
)
@pytest.mark.parametrize("suffix", [".pth", ".pkl", ".pyth"])
def test_a_checkpoint_without_weights_is_one_error(marker, content, suffix):
    Path(f"file{suffix}").write_bytes(
        pickled(_arrays(content)) if suffix == ".pkl" else saved(content)
    )
    with pytest.raises(CheckpointError):
        Checkpointer(nn.Linear(2, 2)).load(f"file{suffix}")


def _arrays(content):
    if isinstance(content, dict):
        return {key: _arrays(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_arrays(x) for x in content]
    return content.numpy() if isinstance(content, torch.Tensor) else content


@pytest.mark.parametrize(
    "name", ["../outside.pth", "../../x.pth", "{root}/outside.pth", "a/b.pth", "..", "", "\xff"]
)
def test_the_last_checkpoint_is_beside_its_tag(marker, name):
    folder = Path("run")
    folder.mkdir()
    torch.save({"model": WEIGHTS}, "outside.pth")
    name = name.replace("{root}", str(marker.parent))
    (folder / "last_checkpoint").write_bytes(name.encode("latin1"))
    checkpointer = Checkpointer(nn.Linear(2, 2), "run")
    with pytest.raises(CheckpointError, match="run/last_checkpoint"):
        checkpointer.newest()
