"""Images with the objects of full precision and of the quantized detector, as W&B's overlays."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from vitq.store.rundir import RunDir

# Name in `samples.npz` → caption.
NETWORKS = {"full": "full precision", "quantized": "quantized"}
# Classes that a mask of W&B can hold, which is one byte for each pixel; 0 is the background.
_CLASSES = 255


def log(run_dir: RunDir, run: Any) -> None:
    """Log `objects/<id>` of each image of `samples.npz`: two images side by side, full precision first.

    Each has its boxes, with class and score, and its masks, where there are some; both can be switched by class, and
    boxes by score. Classes count from 1; of overlapping masks the surest is seen.
    """
    arrays = run_dir.read_samples()
    if arrays is None:
        return
    ends = arrays["picture_end"].tolist()
    content = arrays["picture"].tobytes()
    logged = {}
    for index, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        picture = Image.open(io.BytesIO(content[start:end]))
        logged[f"objects/{arrays['id'][index]}"] = [_image(picture, arrays, name, index) for name in NETWORKS]
    run.log(logged)


def _image(picture: Image.Image, arrays: dict[str, np.ndarray], network: str, index: int) -> Any:
    import wandb

    from vitq.tasks.coco_scores import pixels  # torch, which a mirror of other runs does without
    from vitq.tasks.samples import codes_of

    objects = {key: arrays[f"{network}.{key}"] for key in ("image", "box", "score", "label", "mask", "mask_end")}
    names = {int(number) + 1: str(name) for number, name in zip(arrays["class_id"], arrays["class_name"], strict=True)}
    rows = np.flatnonzero(objects["image"] == index)
    boxes = [_box(objects, int(row), names) for row in rows]
    overlays: dict[str, Any] = {"boxes": {"objects": {"box_data": boxes, "class_labels": names}}}
    codes = codes_of(objects)
    if len(names) <= _CLASSES and any(len(arrays[f"{other}.mask_end"]) for other in NETWORKS):
        height, width = arrays["size"][index].tolist()
        classes = np.zeros((height, width), dtype=np.uint8)
        for row in sorted(rows, key=lambda row: float(objects["score"][row])):
            classes[pixels(codes[row], height, width)] = objects["label"][row] + 1
        labels = {0: "background", **names}
        overlays["masks"] = {"objects": {"mask_data": classes, "class_labels": labels}}
    return wandb.Image(picture, caption=NETWORKS[network], **overlays)


def _box(objects: dict[str, np.ndarray], row: int, names: dict[int, str]) -> dict[str, Any]:
    left, top, right, bottom = (float(side) for side in objects["box"][row])
    label, score = int(objects["label"][row]) + 1, float(objects["score"][row])
    return {
        "position": {"minX": left, "maxX": right, "minY": top, "maxY": bottom},
        "domain": "pixel",
        "class_id": label,
        "box_caption": f"{names[label]} {score:.2f}",
        "scores": {"score": score},
    }
