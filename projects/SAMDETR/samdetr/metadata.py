"""What is known about the test set of a config without reading it: the names of its classes."""

from __future__ import annotations

from detectron2.data import Metadata, MetadataCatalog
from omegaconf import DictConfig, OmegaConf


def metadata_of(cfg: DictConfig) -> Metadata:
    """Metadata of a config's test set; `thing_classes` is among it where the names are known."""
    dataset = OmegaConf.select(cfg, "dataloader.test.dataset", default={})
    if "classes" in dataset:  # own data, which nobody registers before it is loaded
        return Metadata(thing_classes=list(dataset.classes))
    names = dataset.get("names", [])
    names = [names] if isinstance(names, str) else names
    return MetadataCatalog.get(names[0]) if names else Metadata()
