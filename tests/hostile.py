"""Hostile input for the tests of SECURITY.md: what it would do, and how one sees that it did."""

import os


def marking(tmp_path, monkeypatch):
    """For a fixture: the file that hostile input would write, in the working folder."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "marker"
    yield path
    assert not path.exists()


class Hostile:
    """Writes the marker when it is unpickled."""

    def __reduce__(self):
        return os.system, ("echo > marker",)
