"""tools/average_checkpoints.py: the mean of weights, elementwise."""

import pytest
import torch
from torch.testing import assert_close

from command_line import run_script
from samdetr.checkpoint import Checkpointer
from toy import ToyModel


def test_weights_are_averaged_and_other_numbers_are_the_last(tmp_path):
    paths, states = [tmp_path / f"{i}.pth" for i in range(3)], []
    for i, path in enumerate(paths):
        state = {**ToyModel().state_dict(), "seen": torch.tensor(i)}
        states.append(state)
        torch.save({"model": state, "metadata": {"thing_classes": ["a"]}, "trainer": {}}, path)

    assert run_script("tools/average_checkpoints.py", *paths, tmp_path / "out.pth") == 0

    found = torch.load(tmp_path / "out.pth")
    assert found.keys() == {"model", "metadata"}
    assert found["metadata"]["thing_classes"] == ["a"]
    assert found["model"].pop("seen") == 2
    for name, value in found["model"].items():
        assert_close(value, torch.stack([state[name] for state in states]).mean(0))
    torch.save({"model": found["model"]}, tmp_path / "model.pth")
    Checkpointer(ToyModel()).load(str(tmp_path / "model.pth"))


@pytest.mark.parametrize("other", [{"num_classes": 3}, {"dim": 4}])
def test_files_of_different_models_are_refused_by_name(tmp_path, other, capsys):
    for name, model in (("one", ToyModel()), ("two", ToyModel(**other))):
        torch.save({"model": model.state_dict()}, tmp_path / f"{name}.pth")
    files = [tmp_path / f"{name}.pth" for name in ("one", "two", "out")]
    assert run_script("tools/average_checkpoints.py", *files) == 2
    assert "two.pth" in capsys.readouterr().err
    assert not files[-1].exists()
