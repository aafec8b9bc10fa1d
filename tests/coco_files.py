"""Makes tiny data sets in COCO format and registers them, for the tests of the data."""

import json

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from PIL import Image

SIZE = (40, 30)  # width, height


def write_coco(folder, images, categories=("cat", "dog")):
    """Writes a set; `images` has, for every image, a list of annotations or of bare boxes.

    Returns: the annotation file and the image folder.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    contents = {
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(categories)],
        "images": [],
        "annotations": [],
    }
    for index, annotations in enumerate(images):
        name = f"{index}.png"
        Image.fromarray(np.full((SIZE[1], SIZE[0], 3), 50 * index, np.uint8)).save(
            folder / "images" / name
        )
        contents["images"].append(
            {"id": index, "file_name": name, "width": SIZE[0], "height": SIZE[1]}
        )
        for annotation in annotations:
            if not isinstance(annotation, dict):
                annotation = {"bbox": annotation}
            number = len(contents["annotations"]) + 1
            defaults = {"id": number, "image_id": index, "category_id": 1, "iscrowd": 0, "area": 1}
            contents["annotations"].append({**defaults, **annotation})
    (folder / "boxes.json").write_text(json.dumps(contents))
    return str(folder / "boxes.json"), str(folder / "images")


class Registry:
    """Registers data sets under names of their own, and forgets them at the end."""

    def __init__(self):
        self.names = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.clear()

    def add(self, json_file, image_root):
        name = f"test_set_{len(self.names)}"
        register_coco_instances(name, {}, json_file, image_root)
        self.names.append(name)
        return name

    def add_function(self, function, **metadata):
        name = f"test_set_{len(self.names)}"
        DatasetCatalog.register(name, function)
        MetadataCatalog.get(name).set(**metadata)
        self.names.append(name)
        return name

    def clear(self):
        for name in self.names:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
