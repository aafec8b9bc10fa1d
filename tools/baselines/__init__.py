"""Baselines for `tools/benchmark.py --against`: detectors with the interface of Detectron2.

`--against baselines.official:official` names a function that maps one of this project's models to
the detector to measure in its place.
"""
