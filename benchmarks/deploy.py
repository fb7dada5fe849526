"""Integer execution beside NNCF's own int8, and DeiT-base with random weights. Needs `pip install 'vitq[deploy]' nncf`.

    python benchmarks/deploy.py compare SIGNATURE… --nncf --no-accuracy     speed of several runs of one model
    python benchmarks/deploy.py compare SIGNATURE… --nncf --no-speed        their accuracy on the runs' own images
    python benchmarks/deploy.py profile SIGNATURE                           which nodes eat the time
    python benchmarks/deploy.py base                                        DeiT-base, batch 8 and 1

NNCF gets the first run's calibration images and `model_type=TRANSFORMER`; ours are the runs' models as they stand.
Everything runs in one process, in turns, on `--threads` threads. ONNX files of `vitq export SIGNATURE --format onnx`
are used where they are there, and written there otherwise.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import torch
import yaml
from reconstruction import Noise

from vitq import data
from vitq.config import RunConfig
from vitq.config.search_path import ConfigPath
from vitq.deploy.bench import Infer, forms, race
from vitq.deploy.onnx.export_onnx import export, save_onnx
from vitq.deploy.packed.packed import load_packed, save_packed
from vitq.deploy.runtimes import openvino as ov
from vitq.engine.recipe import equipped
from vitq.job.packed_run import packed_run
from vitq.models.build import create
from vitq.models.load import load_model
from vitq.planning import base_method
from vitq.progress import Progress
from vitq.quant.site_table import model_bytes
from vitq.steps import Workspace
from vitq.steps.step import enabled_steps
from vitq.store import RunDir, Store

CPU = torch.device("cpu")


def with_nncf(
    model: torch.nn.Module, image: tuple[int, int, int], images: list[torch.Tensor], threads: int, folder: Path
) -> dict[str, Infer]:
    """NNCF's int8 of a float model, the rest in float32 and in bfloat16."""
    import nncf

    path = folder / "plain.onnx"
    path.write_bytes(export(model, image))
    quantized = nncf.quantize(
        ov.convert(path),
        nncf.Dataset([image.numpy() for image in images]),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(images),
    )
    return {
        name: ov.Request(ov.compiled(quantized, precision, threads)).infer
        for name, precision in (("nncf", "f32"), ("nncf_bf16", "bf16"))
    }


def show(models: dict[str, Infer], images: np.ndarray, sizes: tuple[int, ...], repeats: int) -> None:
    for size in sizes:
        timings = race(models, np.resize(images, (size, *images.shape[1:])), repeats * (1 if size > 1 else 5))
        base = timings[next(iter(models))].milliseconds
        for name, timing in timings.items():
            spread = f"{timing.milliseconds:8.1f} ms ({timing.low:.1f}–{timing.high:.1f})"
            print(f"batch {size:2} {name:13} {spread:>30}  {base / timing.milliseconds:.2f}x", flush=True)


def onnx_of(run_dir: RunDir) -> Path:
    """The run's ONNX file, made if it is not there."""
    path = run_dir.deploy_dir / "model.onnx"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        save_onnx(packed_run(run_dir, Progress()), path)
    return path


def compare(args: argparse.Namespace) -> None:
    store, progress = Store(args.runs_dir), Progress()
    runs = [store.find(signature) for signature in args.signatures]
    config = runs[0].config
    images = data.eval_set(config, progress)
    model = load_model(config.model, config.data, config.cache_dir, progress).eval()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "float.onnx").write_bytes(export(model, config.model.image_shape))
        graphs = {"float": ov.convert(folder / "float.onnx")}
        graphs |= {run.signature[:4]: ov.convert(onnx_of(run.dir)) for run in runs}
        models = {
            f"{graph}:{precision}": ov.Request(ov.compiled(graphs[graph], precision, args.threads)).infer
            for graph in graphs
            for precision in ("f32", "bf16")
        }
        if args.nncf:
            calibration = [x for x, _ in data.calibration_set(config, progress).batches(1, CPU)]
            models |= with_nncf(model, config.model.image_shape, calibration, args.threads, folder)
        if not args.no_speed:
            first = next(x for x, _ in images.batches(32, CPU)).numpy()
            show(models, first, (32, 1), args.repeats)
        if args.no_accuracy:
            return
        recorded = {run.signature[:4]: run.predictions["topk_index"][:, 0] for run in runs}
        reference: np.ndarray | None = None
        for form, infer in models.items():
            classes = np.concatenate([infer(x.numpy()).argmax(1) for x, _ in images.batches(32, CPU)])
            reference = classes if reference is None else reference
            top1, agree = (classes == images.labels).mean() * 100, (classes == reference).mean() * 100
            own = recorded.get(form.split(":")[0])
            simulated = "" if own is None else f", with the simulated model {(classes == own).mean() * 100:.2f} %"
            print(f"{form:13} top-1 {top1:.2f} %, agreement with float32 {agree:.2f} %{simulated}", flush=True)


def profile(args: argparse.Namespace) -> None:
    """Milliseconds of each kind of node, from OpenVINO's counters."""
    run = Store(args.runs_dir).find(args.signature)
    config = run.config
    settings = {
        "PERF_COUNT": True,
        "INFERENCE_PRECISION_HINT": args.precision,
        "INFERENCE_NUM_THREADS": args.threads,
        "NUM_STREAMS": 1,
    }
    request = openvino.Core().compile_model(ov.convert(onnx_of(run.dir)), "CPU", settings).create_infer_request()
    images = np.random.default_rng(0).standard_normal((args.batch, *config.model.image_shape))
    spent: dict[tuple[str, str], list[float]] = {}
    for turn in range(args.repeats + 2):
        request.infer([images.astype(np.float32)])
        for node in request.get_profiling_info() if turn > 1 else ():
            spent.setdefault((node.node_type, node.exec_type), []).append(node.real_time.total_seconds() * 1e3)
    total = sum(map(sum, spent.values()))
    print(f"{run.signature[:4]} {args.precision} batch {args.batch}: {total / args.repeats:.1f} ms in nodes")
    for (kind, kernel), times in sorted(spent.items(), key=lambda item: -sum(item[1]))[:16]:
        nodes, whole = len(times) // args.repeats, sum(times)
        print(f"{whole / args.repeats:8.1f} ms {100 * whole / total:5.1f} %  {nodes:4} × {kind} ({kernel})", flush=True)


def base(args: argparse.Namespace) -> None:
    """DeiT-base with random weights, quantized on noise."""
    below: dict[str, Any] = yaml.safe_load(ConfigPath.of().files("method")["integer"].read_text())
    method = base_method.with_base({"method": {**below, "base": "minmax"}}, ConfigPath.of())["method"]
    raw = {
        "model": {"name": args.model, "pretrained": False},
        "data": {"name": "noise"},
        "method": method,
        "bits": {"weight": 8, "activation": 8},
        "calib": {"size": 8, "batch_size": 8},
    }
    config, problems = RunConfig.parse(raw)
    if config is None:
        raise SystemExit("\n".join(problems))
    model, noise = create(config.model, config.data), Noise(8)
    plain = create(config.model, config.data)
    work = Workspace(equipped(config, model), noise, config, CPU, Progress())  # type: ignore[arg-type]
    for step in enabled_steps(config):
        step.run(work)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_packed(work.model, config, model_bytes(plain), folder / "model.safetensors")
        models = forms(load_packed(folder / "model.safetensors"), plain, "openvino", args.threads, folder)
        if args.nncf:
            models |= with_nncf(plain, config.model.image_shape, list(noise.x.split(1)), args.threads, folder)
        show(models, noise.x.numpy(), (8, 1), args.repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=10)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("compare")
    one.add_argument("signatures", nargs="+", metavar="SIGNATURE")
    one.add_argument("--runs-dir", default="runs")
    one.add_argument("--nncf", action="store_true")
    one.add_argument("--no-accuracy", action="store_true")
    one.add_argument("--no-speed", action="store_true")
    one.set_defaults(run=compare)
    three = commands.add_parser("profile")
    three.add_argument("signature")
    three.add_argument("--runs-dir", default="runs")
    three.add_argument("--batch", type=int, default=32)
    three.add_argument("--precision", default="f32", choices=("f32", "bf16"))
    three.set_defaults(run=profile)
    two = commands.add_parser("base")
    two.add_argument("--model", default="deit_base_patch16_224")
    two.add_argument("--nncf", action="store_true")
    two.set_defaults(run=base)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
