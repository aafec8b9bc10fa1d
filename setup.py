"""Copy configs/ into the built package; everything else is in setup.cfg."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """Add configs/ to wheels; with an editable install `samdetr.model_zoo` reads the checkout's."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib, "samdetr", "configs")
        shutil.rmtree(target, ignore_errors=True)  # from an earlier build
        shutil.copytree("configs", target, ignore=shutil.ignore_patterns("__pycache__"))


setup(cmdclass={"build_py": BuildWithConfigs})
