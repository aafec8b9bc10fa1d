"""Speed and memory of detectors, measured in interleaved rounds."""
