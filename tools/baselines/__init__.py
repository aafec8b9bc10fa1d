"""What the benchmark measures samdetr against: models with the contract of Detectron2.

With `tools` on Python's path, `baselines.official:official` and the like are `MODULE:FUNCTION`; the
function takes one of this project's models and returns a model to run in its place.
"""
