"""Peers of SAM-DETR: what each changes in the parts of `samdetr.modeling`, one file per model."""
