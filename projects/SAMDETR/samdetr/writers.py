"""Writers of Detectron2's events to Weights & Biases and to MLflow.

`_vis_data` of Detectron2's `EventStorage` is private: its own writer of pictures reads it too.
"""

from __future__ import annotations

import importlib.util
import logging
import re
from abc import abstractmethod
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.utils.events import EventWriter, get_event_storage

from .checkpoint import replacing


class TrackingWriter(EventWriter):
    """Base of writers to a tracking service, where a resumed training continues its run.

    If the service fails, a warning says so, and the training goes on without it.

    Args:
        output_dir: folder of the training; keeps the id of the run.
        options: for the function of the service that starts a run.

    Raises:
        ModuleNotFoundError: if the package of the service is not installed.
    """

    package: str

    def __init__(self, output_dir: str, **options: Any):
        if importlib.util.find_spec(self.package) is None:
            extra = f"pip install 'samdetr[{self.package}]'"
            raise ModuleNotFoundError(f"train.writers needs {self.package}: {extra}")
        self.id_file = Path(output_dir, f"{self.package}.run_id")
        self.name = Path(output_dir).resolve().name
        self.options = options
        self.run: Any = None
        self._failed = False
        self._written = -1  # iteration

    @abstractmethod
    def start(self, run_id: str | None) -> str:
        """Start `self.run`, or continue the one of that id; return its id."""

    @abstractmethod
    def log(self, iteration: int, values: dict[str, Any]) -> None:
        """Write metrics, and (H, W, 3) uint8 RGB pictures."""

    def write(self) -> None:
        """Write what is new since the last call."""
        if self._failed:
            return
        try:
            self._write()
        except Exception as error:  # of the service, the network or the disk
            self._failed = True
            text = "%s fails and receives nothing more from this training: %s"
            logging.getLogger(__name__).warning(text, self.package, error)

    def _write(self) -> None:
        if self.run is None:
            run_id = self.start(self.id_file.read_text() if self.id_file.is_file() else None)
            with replacing(self.id_file) as file:
                file.write(run_id.encode())
        storage, rows = get_event_storage(), defaultdict[int, dict[str, Any]](dict)
        for name, (value, iteration) in storage.latest_with_smoothing_hint().items():
            if iteration > self._written:
                rows[iteration][name] = value
        for name, picture, iteration in storage._vis_data:
            rows[iteration][name] = np.asarray(picture).transpose(1, 2, 0)
        for iteration, row in sorted(rows.items()):
            self.log(iteration, row)
            self._written = max(self._written, iteration)


class WandbWriter(TrackingWriter):
    """Writer to Weights & Biases.

    Args: those of `TrackingWriter`, with options for `wandb.init`. Environment variables such as
        WANDB_PROJECT and WANDB_MODE apply.
    """

    package = "wandb"

    def start(self, run_id: str | None) -> str:
        import wandb

        options = {"name": self.name, "dir": str(self.id_file.parent), **self.options}
        self.run = wandb.init(id=run_id, resume="allow", **options)
        # Not the steps of W&B, which never go back: a resumed run repeats some iterations.
        self.run.define_metric("*", step_metric="iteration")
        return str(self.run.id)

    def log(self, iteration: int, values: dict[str, Any]) -> None:
        from wandb import Image

        row = {x: Image(y) if isinstance(y, np.ndarray) else y for x, y in values.items()}
        self.run.log({**row, "iteration": iteration})

    def close(self) -> None:
        """End the run."""
        if self.run is not None:
            self.run.finish()


class MLflowWriter(TrackingWriter):
    """Writer to MLflow.

    Args: those of `TrackingWriter`, with options for `mlflow.start_run`. Environment variables such
        as MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME apply.
    """

    package = "mlflow"

    def start(self, run_id: str | None) -> str:
        import mlflow

        self.run = mlflow.start_run(run_id, **{"run_name": self.name, **self.options})
        return str(self.run.info.run_id)

    def log(self, iteration: int, values: dict[str, Any]) -> None:
        import mlflow

        # MLflow refuses names with other characters.
        named = {re.sub(r"[^\w\-./ ]", "_", name): value for name, value in values.items()}
        pictures = {x: named.pop(x) for x, y in [*named.items()] if isinstance(y, np.ndarray)}
        mlflow.log_metrics(named, step=iteration)
        for name, picture in pictures.items():
            mlflow.log_image(picture, f"{name}/{iteration:07}.png")

    def close(self) -> None:
        """End the run."""
        if self.run is not None:
            import mlflow

            mlflow.end_run()


WRITERS: dict[str, type[TrackingWriter]] = {"wandb": WandbWriter, "mlflow": MLflowWriter}
