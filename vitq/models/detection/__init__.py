"""Detectors: Mask R-CNN and Cascade Mask R-CNN on Swin, as the quantization papers measure them on COCO.

Swin comes from timm, neck and heads from torchvision. The original networks were trained with mmdet 2.11 (repository
Swin-Transformer-Object-Detection); what that computes otherwise than torchvision stands here, a file for each part.
"""
