"""What SECURITY.md promises of checkpoints: files from strangers run nothing."""

import argparse
import io
import pickle
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hostile import Hostile, marking
from samdetr.checkpoint import Checkpointer, CheckpointError, InitialCheckpointer
from samdetr.convert import ConversionError, read_checkpoint


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


def patched(weights, name, value):
    """A file whose dict of weights has an attribute in the place of one of its methods."""
    weights = OrderedDict(weights)
    setattr(weights, "Z" * len(name), value)
    out, replaced = io.BytesIO(), 0
    file = io.BytesIO(saved({"model": weights}))
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(out, "w") as target:
        for part in source.namelist():
            content = source.read(part)
            replaced += content.count(b"Z" * len(name))
            target.writestr(part, content.replace(b"Z" * len(name), name.encode()))
    assert replaced == 1
    return out.getvalue()


@pytest.mark.parametrize("value", [5, OrderedDict, None], ids=str)
@pytest.mark.parametrize("name", ["items", "keys", "values", "get", "pop", "copy", "__iter__"])
def test_attributes_of_a_dict_are_no_methods_of_it(marker, name, value):
    Path("file.pth").write_bytes(patched(WEIGHTS, name, value))
    model = nn.Linear(2, 2)
    Checkpointer(model).load("file.pth")
    assert all(torch.equal(model.state_dict()[x], y) for x, y in WEIGHTS.items())
    found = read_checkpoint("file.pth").weights
    assert found.keys() == WEIGHTS.keys()
    assert all(torch.equal(found[x], y) for x, y in WEIGHTS.items())


def test_attributes_of_tensors_are_left_where_they_are(marker):
    weight = nn.Parameter(torch.ones(2, 2))
    weight.detach = weight.copy_ = weight.size = 5
    torch.save({"model": {**WEIGHTS, "weight": weight}}, "file.pth")
    model = nn.Linear(2, 2)
    Checkpointer(model).load("file.pth")
    assert torch.equal(model.weight, torch.ones(2, 2))
    assert not vars(read_checkpoint("file.pth").weights["weight"])


def with_metadata(metadata):
    weights = OrderedDict(WEIGHTS)
    weights._metadata = metadata
    return weights


def test_the_versions_of_modules_are_kept(marker):
    """Without them torch takes a file for an old one, and lets a batch norm lack a counter."""
    norm = nn.BatchNorm1d(2)
    state = norm.state_dict()
    del state["num_batches_tracked"]
    torch.save(state, "file.pth")
    loaded = []
    norm.register_load_state_dict_pre_hook(lambda *x: loaded.append(x[3]))
    Checkpointer(norm).load("file.pth")
    assert loaded == [{"version": 2}]


UNFIT = {
    "sparse": torch.eye(2).to_sparse(),
    "sparse in rows": torch.eye(2).to_sparse_csr(),
    "nested": torch.nested.nested_tensor([torch.ones(2), torch.ones(2)]),
    "without numbers": torch.ones(2, 2, device="meta"),
    "quantised": torch.quantize_per_tensor(torch.ones(2, 2), 0.1, 0, torch.quint8),
    "complex": torch.ones(2, 2) * 1j,
    "a number": 1.0,
    "a list": [[1.0]],
}
UNFIT_FILES = {
    **{name: {"model": {**WEIGHTS, "weight": value}} for name, value in UNFIT.items()},
    "alone": {**WEIGHTS, "weight": torch.eye(2).to_sparse()},
    "metadata of a number": {"model": with_metadata(5)},
    "metadata of numbers": {"model": with_metadata({"": 5})},
    "metadata of texts": {"model": with_metadata({"": {"version": "1"}})},
    "metadata by number": {"model": with_metadata({5: {"version": 1}})},
    "heuristics of a tensor": {"model": WEIGHTS, "matching_heuristics": torch.ones(2)},
    "heuristics of a text": {"model": WEIGHTS, "matching_heuristics": "False"},
    "heuristics without a match": {
        "model": {"weight": torch.ones(3), "_blob": torch.ones(2)},
        "matching_heuristics": True,
        "__author__": "Caffe2",
    },
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", UNFIT_FILES)
def test_what_is_no_dense_real_tensor_by_name_is_one_error(marker, name):
    Path("file.pth").write_bytes(saved(UNFIT_FILES[name]))
    model = nn.Linear(2, 2)
    before = model.weight.clone()
    with pytest.raises(CheckpointError, match=r"^file\.pth (holds|cannot|does)") as error:
        Checkpointer(model).load("file.pth")
    assert "\n" not in str(error.value)
    assert torch.equal(model.weight, before)
    if name != "heuristics without a match":
        with pytest.raises(ConversionError, match=r"^file\.pth holds no state dict"):
            read_checkpoint("file.pth")


def test_complex_weights_are_refused_in_safetensors_too(marker):
    from safetensors.torch import save_file

    save_file({**WEIGHTS, "weight": torch.ones(2, 2) * 1j}, "file.safetensors")
    with pytest.raises(ConversionError, match=r"file\.safetensors .* weight is complex"):
        read_checkpoint("file.safetensors")


def test_a_match_of_names_that_is_none_is_one_error(marker):
    """Of Detectron2's heuristics, which raise what they like."""
    torch.save({"model": {"bias": torch.ones(2)}, "matching_heuristics": True}, "file.pth")
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with pytest.raises(CheckpointError, match=r"^file\.pth cannot be loaded: Cannot match one"):
        Checkpointer(model).load("file.pth")


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", b"\0" * 99, "é".encode("utf-16")])
def test_a_checksum_of_any_bytes_is_that_of_a_damaged_file(marker, content):
    Path("run").mkdir()
    checkpointer = Checkpointer(nn.Linear(2, 2), "run")
    checkpointer.save("model_0000001")
    Path("run/model_0000001.pth.sha256").write_bytes(content)
    with pytest.raises(OSError, match=r"run/model_0000001\.pth is damaged"):
        checkpointer.newest()


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
