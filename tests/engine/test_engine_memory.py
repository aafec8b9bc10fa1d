"""Memory of tensors on a CPU."""

import platform
import subprocess
import sys

import pytest

from samdetr.engine.memory import keep_freed_memory

# Page faults of making the same 80 MB tensor again, of about 20,000 pages of 4 kB, as it is and
# with memory kept; the least of a few times, for the system may have taken pages back meanwhile.
PROGRAM = """
import resource, torch
from samdetr.engine.memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(20_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
returned = min(faults() for _ in range(4))
assert keep_freed_memory()
faults()
print(returned, min(faults() for _ in range(4)))
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_the_memory_of_a_freed_tensor_serves_the_next():
    found = subprocess.check_output([sys.executable, "-c", PROGRAM], text=True)
    returned, kept = map(int, found.split())
    assert kept < 1000 < returned


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr("platform.libc_ver", lambda: ("", ""))
    assert not keep_freed_memory()
