"""What networks are made for: image classification, features for other uses, object detection, instance
segmentation.

A task says, of a network's outputs (N, …) for N images and of their labels:

- loss: what the network was trained by, e.g. the cross-entropy of the label;
- divergence: how far the quantized outputs are from the full-precision ones, e.g. KL(full precision ‖ quantized);
- score: the figures of `result.json`, computed from quantized outputs, full-precision outputs and labels;
- record: what is kept of each image (`predictions.npz`), from which paired tests are made;
- primary metric: the figure that tables and tests compare by, e.g. top-1 accuracy.

One module a task (`task.py` says what one is). The engine computes outputs and asks the task; below it, steps know
logits and labels alone.
"""
