"""Memory of tensors on a CPU."""

import platform
import subprocess
import sys

import pytest

from samdetr.engine.memory import keep_freed_memory

# Page faults of making the same 80 MB tensor again, of about 20,000 pages of 4 kB; the least of a
# few times, for the system may have taken pages back meanwhile.
PROGRAM = """
import resource, sys, torch
from samdetr.engine.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
torch.ones(20_000_000)
faults = []
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(20_000_000)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(faults))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_the_memory_of_a_freed_tensor_serves_the_next():
    faults = {
        choice: int(subprocess.check_output([sys.executable, "-c", PROGRAM, choice]))
        for choice in ("keep", "return")
    }
    assert faults["keep"] < 1000 < faults["return"]


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr("platform.libc_ver", lambda: ("", ""))
    assert not keep_freed_memory()
