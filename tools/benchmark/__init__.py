"""Speed and memory of detectors, measured turn and turn about."""
