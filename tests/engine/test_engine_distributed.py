"""Where processes stand, and what cannot be started."""

import argparse

import pytest

from samdetr.engine import ConfigError, start
from samdetr.engine.launch import Place, place_in

SLURM = {
    "SLURM_PROCID": "5",
    "SLURM_NTASKS": "8",
    "SLURM_LOCALID": "1",
    "SLURM_NNODES": "2",
    "MASTER_ADDR": "first",
    "MASTER_PORT": "29500",
}
TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}


def arguments(num_gpus=1, num_machines=1):
    return argparse.Namespace(
        num_gpus=num_gpus, num_machines=num_machines, machine_rank=0, dist_url="auto"
    )


@pytest.mark.parametrize("environment", [TORCHRUN, SLURM])
def test_the_place_of_a_process_is_read_from_what_started_it(environment):
    assert place_in(environment) == Place(rank=5, world_size=8, local_rank=1, local_size=4)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"RANK": "1"},
        {**SLURM, "SLURM_NTASKS": "1", "SLURM_PROCID": "0"},
        {name: value for name, value in SLURM.items() if name != "MASTER_ADDR"},
    ],
)
def test_a_process_started_by_hand_has_no_place(environment):
    assert place_in(environment) is None


def test_torchrun_and_num_gpus_together_are_refused(monkeypatch):
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="leave out --num-gpus"):
        start(print, arguments(num_gpus=2))
