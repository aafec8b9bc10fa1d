"""Training works where signals and folders can do less than on Linux."""

import errno
import importlib.util
import os
import signal
import threading

import pytest

from samdetr.checkpoint import replacing
from samdetr.data.loader import outlive_signals
from samdetr.engine import launch


def test_without_sigusr1_a_run_is_stopped_by_sigterm(monkeypatch):
    for name in ("SIGUSR1", "sigwaitinfo", "pthread_sigmask"):  # none of them on Windows
        monkeypatch.delattr(signal, name)
    spec = importlib.util.spec_from_file_location("samdetr.engine.elsewhere", launch.__file__)
    elsewhere = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(elsewhere)
    before = signal.getsignal(signal.SIGTERM)
    with elsewhere.StopRequest() as stop:
        assert stop.agreed() == 0
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.agreed() == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_worker_starts_without_signals_to_wait_for(monkeypatch):
    for name in ("SIGUSR1", "sigwaitinfo", "pthread_sigmask"):
        monkeypatch.delattr(signal, name)
    threads = threading.active_count()
    outlive_signals(0)
    assert threading.active_count() == threads


@pytest.mark.parametrize("call", ["fsync of a network drive", "open on Windows"])
def test_a_folder_that_cannot_be_flushed_is_a_warning(tmp_path, monkeypatch, call):
    fsync = os.fsync

    def refuse(file, *flags):
        if call.startswith("open") or os.path.isdir(f"/proc/self/fd/{file}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(file)

    monkeypatch.setattr(os, call.split()[0], refuse)
    with (
        pytest.warns(UserWarning, match="cannot be flushed to the disk"),
        replacing(tmp_path / "file") as file,
    ):
        file.write(b"content")
    assert (tmp_path / "file").read_bytes() == b"content"
