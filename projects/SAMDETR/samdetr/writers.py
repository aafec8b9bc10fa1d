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
        self.options = {"name": Path(output_dir).resolve().name, **options}
        self._run: Any = None
        self._failed = False
        self._written = -1  # iteration

    @abstractmethod
    def start(self, run_id: str | None) -> tuple[Any, str]:
        """Start a run, or continue the one of that id; return it and its id."""

    @abstractmethod
    def log(self, iteration: int, scalars: dict[str, float]) -> None:
        """Write the metrics of an iteration."""

    @abstractmethod
    def log_picture(self, iteration: int, name: str, picture: np.ndarray) -> None:
        """Write an (H, W, 3) uint8 RGB picture."""

    @abstractmethod
    def finish(self) -> None:
        """End the run."""

    def write(self) -> None:
        """Write what is new since the last call."""
        self._try(self._write)

    def close(self) -> None:
        """End the run."""
        if self._run is not None:
            self._try(self.finish)

    def _try(self, action: Any) -> None:
        if self._failed:
            return
        try:
            action()
        except Exception as error:  # of the service, the network or the disk
            self._failed = True
            text = "%s fails and receives nothing more from this training: %s"
            logging.getLogger(__name__).warning(text, self.package, error)

    def _write(self) -> None:
        storage = get_event_storage()
        if self._run is None:
            known = self.id_file.read_text() if self.id_file.is_file() else None
            self._run, run_id = self.start(known)
            with replacing(self.id_file) as file:
                file.write(run_id.encode())
        rows: dict[int, dict[str, float]] = defaultdict(dict)
        for name, (value, iteration) in storage.latest_with_smoothing_hint().items():
            if iteration > self._written:
                rows[iteration][name] = value
        for iteration, row in sorted(rows.items()):
            self.log(iteration, row)
            self._written = iteration
        for name, picture, iteration in storage._vis_data:
            self.log_picture(iteration, name, np.asarray(picture).transpose(1, 2, 0))


class WandbWriter(TrackingWriter):
    """Writer to Weights & Biases.

    Args: those of `TrackingWriter`, with options for `wandb.init`. Environment variables such as
        WANDB_PROJECT and WANDB_MODE apply.
    """

    package = "wandb"

    def start(self, run_id: str | None) -> tuple[Any, str]:
        import wandb

        folder = str(self.id_file.parent)
        run = wandb.init(id=run_id, resume="allow", dir=folder, **self.options)
        # Not the steps of W&B, which never go back: a resumed run repeats some iterations.
        run.define_metric("*", step_metric="iteration")
        return run, run.id

    def log(self, iteration: int, scalars: dict[str, float]) -> None:
        self._run.log({**scalars, "iteration": iteration})

    def log_picture(self, iteration: int, name: str, picture: np.ndarray) -> None:
        import wandb

        self._run.log({name: wandb.Image(picture), "iteration": iteration})

    def finish(self) -> None:
        self._run.finish()


class MLflowWriter(TrackingWriter):
    """Writer to MLflow.

    Args: those of `TrackingWriter`, with options for `mlflow.start_run`. Environment variables such
        as MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME apply.
    """

    package = "mlflow"

    def start(self, run_id: str | None) -> tuple[Any, str]:
        import mlflow

        name = self.options.pop("name")
        run = mlflow.start_run(run_id=run_id, run_name=name, **self.options)
        return run, run.info.run_id

    def log(self, iteration: int, scalars: dict[str, float]) -> None:
        import mlflow

        # Of other characters MLflow makes errors.
        named = {re.sub(r"[^\w\-./ ]", "_", name): value for name, value in scalars.items()}
        mlflow.log_metrics(named, step=iteration, run_id=self._run.info.run_id)

    def log_picture(self, iteration: int, name: str, picture: np.ndarray) -> None:
        import mlflow

        mlflow.log_image(picture, f"{name}/{iteration:07}.png")

    def finish(self) -> None:
        import mlflow

        mlflow.end_run()


WRITERS: dict[str, type[TrackingWriter]] = {"wandb": WandbWriter, "mlflow": MLflowWriter}
