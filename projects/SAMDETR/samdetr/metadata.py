"""Class names and category ids, which travel with a model: run, checkpoint, predictor, exports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detectron2.data import Metadata, MetadataCatalog
from omegaconf import DictConfig, OmegaConf

from .data.datasets import names_of


def metadata_of(cfg: DictConfig, checkpoint: Mapping[str, Any] | None = None) -> Metadata:
    """Return the class names of a model and their ids in its data set, where they are known.

    Nothing is read: they are in the checkpoint, or else in the config or in Detectron2's catalog.

    Args:
        cfg: of the model.
        checkpoint: content of its file, with the state of `ClassMetadata` if a run wrote it.
    """
    dataset = OmegaConf.select(cfg, "dataloader.test.dataset") or {}
    if classes := list(dataset.get("classes", [])):
        ids = dataset.get("category_ids") or range(len(classes))
        numbers = {category: index for index, category in enumerate(ids)}
        found = Metadata(thing_classes=classes, thing_dataset_id_to_contiguous_id=numbers)
    else:
        names = names_of(dataset)
        found = MetadataCatalog.get(names[0]) if names else Metadata()
    kept = (checkpoint or {}).get("metadata")
    if isinstance(kept, dict) and "thing_classes" in kept:
        same = kept["thing_classes"] == found.get("thing_classes")
        found = Metadata(**{**(found.as_dict() if same else {}), **kept})
    return found


class ClassMetadata:
    """Checkpointable that keeps the class names of a run and their ids in its data set."""

    def __init__(self, cfg: DictConfig):
        self.cfg = cfg

    def state_dict(self) -> dict[str, Any]:
        """Return what `metadata_of` knows of classes, once the data are read."""
        known = metadata_of(self.cfg)
        kept = {"thing_classes": list, "thing_dataset_id_to_contiguous_id": dict}
        return {key: plain(x) for key, plain in kept.items() if (x := known.get(key))}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Keep what the data say now."""
