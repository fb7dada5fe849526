"""The integer form of a quantized model and its ONNX file."""
