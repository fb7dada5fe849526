"""How far a quantized model agrees with itself when nothing but its rounding errors changes, and with its integer form.

    python benchmarks/agreement.py SIGNATURE [--forms float64 nudged batch1 openvino onnxruntime]

Each form is compared with the logits that the run recorded (simulated quantization, float32): the same model with its
sums in float64; with its input multiplied by 1 + 2^-23, one unit in the last place; image by image; and the integer
form in two runtimes. Columns: images of another class, agreement, top-1; median and largest margin (first less second
logit of the record) of the images that differ, beside the median margin of all; median and mean difference of the top
class's logit, in units of the record's standard deviation over images (a mean away from 0 would be a systematic error).
Needs the run's packed checkpoint, and `pip install 'vitq[deploy]'` for the runtimes.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from vitq import data
from vitq.deploy.onnx.export_onnx import save_onnx
from vitq.deploy.packed.packed import Packed, load_packed
from vitq.deploy.runtimes import openvino as ov
from vitq.deploy.runtimes.onnxruntime import OnnxSession
from vitq.job.packed_run import packed_run
from vitq.progress import Progress
from vitq.store import Store

Infer = Callable[[torch.Tensor], torch.Tensor]
FORMS = ("simulated", "nudged", "batch1", "float64", "openvino", "onnxruntime")


def form(name: str, packed: Packed, path: Path, folder: Path, threads: int) -> Infer:
    """(B, 3, S, S) float32 → (B, classes) logits. path: the packed checkpoint, for a copy that may be changed."""
    if name in ("openvino", "onnxruntime"):
        onnx = folder / "model.onnx"
        if not onnx.exists():
            save_onnx(packed, onnx)
        if name == "onnxruntime":
            session = OnnxSession(onnx, threads)
            return lambda x: torch.from_numpy(session.infer(x.numpy()))
        request = ov.Request(ov.compiled(ov.convert(onnx), "f32", threads))
        return lambda x: torch.from_numpy(request.infer(x.numpy()).copy())
    if name == "float64":
        # Quantizers take float32; sums, norms and softmax between them are in float64.
        wide = load_packed(path).model.double()
        return lambda x: wide(x.double())
    if name == "batch1":
        return lambda x: torch.cat([packed.model(one) for one in x.split(1)])
    factor = 1 + 2.0**-23 if name == "nudged" else 1.0
    return lambda x: packed.model(x * factor)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("signature", metavar="SIGNATURE")
    parser.add_argument("--runs-dir", default="runs")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=FORMS)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    run = Store(args.runs_dir).find(args.signature)
    packed = packed_run(run.dir, Progress())
    images, record = data.eval_set(run.config, Progress()), run.predictions
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        for name in args.forms:
            infer = form(name, packed, run.dir.model_path, Path(folder), args.threads)
            batches: Iterator[tuple[torch.Tensor, torch.Tensor]] = images.batches(64, torch.device("cpu"))
            logits = torch.cat([infer(x).double() for x, _ in batches]).numpy()
            print(row(name, logits, record, images.labels), flush=True)


def row(name: str, logits: np.ndarray, record: dict[str, np.ndarray], labels: np.ndarray) -> str:
    """One form's line. logits: (N, classes)."""
    first = record["topk_index"][:, 0]
    values = record["topk_logit"].astype(np.float64)
    margin = values[:, 0] - values[:, 1]
    classes = logits.argmax(1)
    differ = classes != first
    gap = (logits[np.arange(len(first)), first] - values[:, 0]) / values[:, 0].std()
    margins = (
        f"{np.median(margin[differ]):.3f} and {margin[differ].max():.3f}" if differ.any() else "no images that differ"
    )
    return (
        f"{name:11} {int(differ.sum()):3} images differ, agreement {100 * (1 - differ.mean()):.2f} %, "
        f"top-1 {100 * (classes == labels).mean():.2f} %; margin {margins} (all images: {np.median(margin):.3f}); "
        f"difference {np.median(np.abs(gap)):.4f}, mean {gap.mean():+.4f} ± {gap.std() / len(gap) ** 0.5:.4f}"
    )


if __name__ == "__main__":
    main()
