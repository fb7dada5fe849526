"""What a run is deployed as: packed checkpoints, ONNX, integer runtimes, and how fast they are."""
