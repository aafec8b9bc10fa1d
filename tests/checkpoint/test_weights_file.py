"""Weights of other trainers: found wherever they are, and read whatever is beside them."""

import argparse
import datetime
import functools
import pickle
import re
from collections import Counter, OrderedDict, defaultdict, deque
from pathlib import PurePosixPath, PureWindowsPath

import numpy as np
import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from torch import nn

from samdetr.checkpoint import Checkpointer, InitialCheckpointer, load_file, nearest
from samdetr.errors import CheckpointError
from toy import ToyModel

OURS = {name: torch.randn_like(value) for name, value in ToyModel().state_dict().items()}
OTHERS = {name: value + 1 for name, value in OURS.items()}


def prefixed(prefix, state):
    return {prefix + name: value for name, value in state.items()}


def part(name):
    return {key.removeprefix(name): x for key, x in OURS.items() if key.startswith(name)}


class Settings(dict):
    """Of a package that whoever reads the file need not have."""


class Meter:
    def __init__(self):
        self.values, self.unit = [np.float32(1)], Settings(name="s")


def loaded(tmp_path, content, checkpointer=Checkpointer):
    path, model = tmp_path / "file.pth", ToyModel()
    torch.save(content, path)
    rest = checkpointer(model).load(str(path))
    return model.state_dict(), rest


def assert_ours(state):
    torch.testing.assert_close(dict(state), OURS, rtol=0, atol=0)


OPTIMIZER = torch.optim.AdamW(ToyModel().parameters()).state_dict()
PLACES = {  # by a part of the log line
    "state_dict.model'": {
        "state_dict": {**prefixed("model.", OURS), "loss.weight": torch.ones(4)},
        "hyper_parameters": Settings(lr=0.1),
        "optimizer_states": [OPTIMIZER],
    },
    "ema.module'": {"ema": {"module": OURS, "updates": 3}, "optimizer": OPTIMIZER},
    "model_state_dict'": {"model_state_dict": OURS, "model": "resnet50", "epoch": 3},
    "module._orig_mod'": prefixed("module._orig_mod.", OURS),
    "network.0.net'": {"network": [prefixed("net.", OURS)], "head": {"weight": torch.ones(4)}},
    "generator'": {"discriminator": {"norm.weight": torch.ones(8)}, "generator": OURS},
    "'model', not those under ema.module": {"ema": {"module": OTHERS}, "model": OURS},
    "'net.model', not those under net.model_ema": {
        "net": {**prefixed("model_ema.", OTHERS), **prefixed("model.", OURS)}
    },
}


@pytest.mark.parametrize("where", PLACES)
def test_weights_are_found_behind_any_dict_and_prefix(where, tmp_path, caplog):
    with caplog.at_level("INFO", "samdetr"):
        assert_ours(loaded(tmp_path, PLACES[where])[0])
    (message,) = [x.getMessage() for x in caplog.records if x.name.startswith("samdetr")]
    assert where in message


@pytest.mark.parametrize(
    "content",
    [
        OURS,
        {"model": OURS, "ema": {"module": dict(OURS)}},
        {**{x: part(f"{x}.") for x in ("backbone", "norm", "head")}, "optimizer": OPTIMIZER},
        {"model": {name: x.numpy() for name, x in OURS.items()}},
    ],
    ids=["alone", "a copy", "by modules", "arrays"],
)
def test_nothing_is_said_of_what_is_not_unusual(content, tmp_path, caplog):
    with caplog.at_level("INFO", "samdetr"):
        assert_ours(loaded(tmp_path, content)[0])
    assert [x for x in caplog.records if x.name.startswith("samdetr")] == []


def test_a_part_of_other_shapes_does_not_fit(tmp_path):
    teacher = ToyModel(dim=16).state_dict()
    assert_ours(loaded(tmp_path, {"model": teacher, "student": OURS})[0])


def test_a_backbone_is_found_too(tmp_path):
    content = {"teacher": {"state_dict": prefixed("backbone.", part("backbone."))}}
    state, _ = loaded(tmp_path, content, InitialCheckpointer)
    for name, value in prefixed("backbone.", part("backbone.")).items():
        torch.testing.assert_close(state[name], value, rtol=0, atol=0)


BESIDE = {
    "best": np.float64(0.5),
    "numbers": [np.int64(3), np.bool_(True), np.float16(2), np.datetime64("2024-02-29")],
    "array": np.arange(3),
    "dtype": np.dtype("float32"),
    "when": [datetime.datetime(2024, 2, 29, 1), datetime.date(2024, 2, 29)],
    "took": datetime.timedelta(seconds=3),
    "where": [PurePosixPath("a/b"), PureWindowsPath(r"C:\a")],
    "args": argparse.Namespace(lr=0.1, output=PurePosixPath("a")),
    "counts": [Counter("aab"), OrderedDict(a=1), defaultdict(list, {"a": [1]})],
    "last": deque([1, 2], 3),
    "torch": torch.__version__,
}


@pytest.mark.parametrize("suffix", [".pth", ".pkl"])
@pytest.mark.parametrize("key", BESIDE)
def test_plain_values_beside_weights_are_read(key, suffix, tmp_path):
    path = tmp_path / f"file{suffix}"
    weights = OURS if suffix == ".pth" else {name: x.numpy() for name, x in OURS.items()}
    content = {"model": weights, "__author__": "us", key: BESIDE[key]}
    if suffix == ".pth":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    found = load_file(path)
    assert_ours(found["model"])
    expected = [1, 2] if key == "last" else BESIDE[key]
    np.testing.assert_array_equal(found[key], expected)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (rb"numpy\._?core\.", b"numpy.core."),
        (rb"numpy\._?core\.", b"numpy._core."),
        (rb"pathlib(\._local)?\nPurePosixPath\n", b"pathlib._local\nWindowsPath\n"),
    ],
)
def test_files_of_other_versions_and_systems_are_read(old, new, tmp_path):
    path = tmp_path / "file.pth"
    content = {"model": OURS, "best": np.float64(0.5), "path": PurePosixPath("a")}
    torch.save(content, path, _use_new_zipfile_serialization=False)  # not compressed, no checksum
    text = path.read_bytes()
    written = np.float64(0).__reduce__()[0].__module__.encode() + b"\n"
    path.write_bytes(
        re.sub(re.escape(old.replace(b"numpy._core.multiarray\n", written)), new, text)
    )
    found = load_file(path)
    assert_ours(found["model"])
    assert found["best"] == 0.5 and str(found["path"]) == "a"


def test_a_file_of_torch_may_have_the_suffix_of_a_pickle(tmp_path):
    torch.save({"state_dict": OURS}, tmp_path / "file.pkl")
    assert_ours(load_file(tmp_path / "file.pkl", OURS)["model"])


def test_objects_of_other_packages_become_dicts(tmp_path):
    state, rest = loaded(tmp_path, {"model": OURS, "meter": Meter(), "cfg": Settings(lr=0.1)})
    assert_ours(state)
    assert type(rest["meter"]) is OrderedDict and rest["cfg"] == {"lr": 0.1}


@pytest.mark.parametrize("value", [eval, functools.partial(print), torch.nn.Linear(2, 2)])
def test_what_could_run_code_is_refused_in_one_sentence(value, tmp_path):
    with pytest.raises(CheckpointError, match="which is not a tensor and could run code$") as error:
        loaded(tmp_path, {"model": OURS, "value": value})
    assert str(error.value).isprintable()


def test_a_file_of_another_code_base_shows_the_nearest_names(tmp_path):
    content = {f"body.layers.{i}.weight": torch.ones(2) for i in range(9)}
    content["neck.norm.bias"] = torch.ones(3)
    with pytest.raises(CheckpointError) as error:
        loaded(tmp_path, {"state_dict": content})
    message = str(error.value)
    assert "neck.norm.bias, body.layers.0.weight, body.layers.1.weight in the file" in message
    assert "norm.bias, backbone.0.weight, norm.weight in the model" in message


@pytest.mark.parametrize("checkpointer", [Checkpointer, InitialCheckpointer])
def test_frozen_norms_do_not_count_as_loaded(checkpointer, tmp_path):
    """They fill the statistics that a file of no version lacks."""
    model = nn.ModuleDict({"backbone": FrozenBatchNorm2d(2), "head": nn.Linear(2, 2)})
    torch.save({"model": {"neck.scale": torch.ones(2)}}, tmp_path / "file.pth")
    with pytest.raises(CheckpointError, match="0 of its names fit; .* neck.scale in the file"):
        checkpointer(model).load(str(tmp_path / "file.pth"))


def test_names_are_near_by_their_words_in_any_order():
    assert nearest(["_", "a.b.x", "a.b.c"], ["y", "b.c", "c.b.a"], 2) == [
        ["a.b.c", "a.b.x"],
        ["c.b.a", "b.c"],
    ]


def test_a_wrapped_checkpoint_gives_reference_boxes(tmp_path):
    from samdetr.modeling.queries import LEARNED, read_reference

    boxes = torch.rand(5, 4)
    torch.save({"ema": {f"module.{LEARNED}": boxes, "x": torch.ones(9)}}, tmp_path / "file.pth")
    torch.testing.assert_close(read_reference(str(tmp_path / "file.pth")), boxes)


def test_the_names_of_a_part_get_its_prefix_if_most_of_a_file_is_of_it(tmp_path):
    model = nn.ModuleDict(
        {"body": nn.ModuleDict({"net": nn.Linear(2, 3)}), "head": nn.Linear(3, 2)}
    )
    names = {key: torch.zeros(()) for key in ("net.weight", "net.bias", "fc.weight")}
    found = load_names(tmp_path, names, model)
    assert found == {"body.net.weight", "body.net.bias", "body.fc.weight"}
    others = dict.fromkeys(("a", "b"), torch.zeros(()))
    assert load_names(tmp_path, {**names, **others}, model) == {*names, *others}
    whole = model.state_dict()
    assert load_names(tmp_path, whole, model) == set(whole)


def load_names(folder, weights, model):
    torch.save(dict(weights), folder / "file.pth")
    return set(load_file(folder / "file.pth", model.state_dict())["model"])
