"""One planned run, from its stored config to its result. `python -m vitq.job --runs-dir DIR SIG…` runs several."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from vitq import host, signals
from vitq.config import RunConfig, canonical, signature
from vitq.errors import ConfigError, VitqError, brief
from vitq.journal import Journal
from vitq.progress import Progress
from vitq.result import Metrics, Result, Size, Timings
from vitq.store import RunDir, Store
from vitq.store.claim import Claim, give_back

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from torch import nn

    from vitq.quant.model import QuantizedModel
    from vitq.track import Tracker

# Seconds after which a signal to stop is raised again where nobody has caught it: well below what a launcher waits.
_INSIST = 3.0


def execute(run_dir: RunDir, progress: Progress, tracker: Tracker, group: str | None = None) -> Result:
    """Run one planned config and record its result; the W&B mirror hears of it afterwards.

    Raises whatever stopped the run, after `status.json` and `log.txt` tell of it. Nothing partial is visible: the sites
    and the predictions are written before `result.json`, and only that file makes a run done.
    """
    journal = Journal(run_dir, progress)
    try:
        config = stored_config(run_dir)
        with tracker.run(config, run_dir.signature, group, run_dir) as tracked:
            try:
                result, sites, model = _measured(config, run_dir, journal)
            except BaseException as error:
                journal.fail(error)  # before the tracker hears of it: that may take long, and time may be short
                raise
            run_dir.write_result(result)
            journal.finish()
            run_dir.clear_state()
            stopped = _probe(config, run_dir, model, journal) if config.probe.wanted else None
            tracked.result(result, sites)
        if stopped is not None:
            raise stopped
        return result
    except BaseException as error:
        if not journal.ended and not run_dir.is_done():
            journal.fail(error)
        raise


def stored_config(run_dir: RunDir) -> RunConfig:
    """The config of a planned run. Raises ConfigError for one that was edited or planned by another version."""
    config, problems = RunConfig.parse(run_dir.read_config())
    if config is None:
        raise ConfigError([f"{run_dir.config_path}: {line}" for line in problems])
    if signature(config) != run_dir.signature:
        raise ConfigError(
            [
                f"{run_dir.config_path} has signature {signature(config)}, its folder says {run_dir.signature}: "
                "the file was edited, or planned by another version of vitq; plan the run again with `vitq run` or "
                "`vitq sweep`"
            ]
        )
    return config


def _measured(config: RunConfig, run_dir: RunDir, journal: Journal) -> tuple[Result, pd.DataFrame, QuantizedModel]:
    """`_measure`, once more where memory ran out while this process kept something of earlier runs."""
    from vitq.shelf import SHELF

    try:
        return _measure(config, run_dir, journal)
    except (MemoryError, RuntimeError) as error:
        from vitq import device

        if not device.is_out_of_memory(error) or not SHELF.clear():
            raise
    # Here, where the traceback and the tensors that it holds are gone.
    device.release()
    journal.note("memory ran out; what this process kept of earlier runs is dropped, and the run begins again")
    return _measure(config, run_dir, journal)


def _measure(config: RunConfig, run_dir: RunDir, journal: Journal) -> tuple[Result, pd.DataFrame, QuantizedModel]:
    """Quantize, evaluate, and write everything but the result. Returns the model, too, for probes."""
    import torch

    from vitq import data, device, evaluate, reference
    from vitq.deploy import analysis
    from vitq.models.load import load_model
    from vitq.shelf import SHELF
    from vitq.sites import blank

    device.make_repeatable()
    where = device.resolve(config.device)
    host.reset_peak_memory()
    with journal.timed("data"):
        images = data.eval_set(config, journal)
    with journal.timed("model"):
        known = json.dumps(canonical(config)["model"], sort_keys=True), config.data.num_classes
        loaded = SHELF.model(known, lambda: load_model(config.model, config.data, config.cache_dir, journal))
        model = loaded.to(where).eval()
    with journal.timed("full precision"):
        fp = reference.reference_logits(config, model, images, where, journal)
    labels = torch.from_numpy(images.labels)
    size, sites, quantized = _quantize(config, model, where, journal, run_dir)
    if not config.method.quantizes:
        logits = fp
    else:
        with journal.timed("evaluate"):
            logits = evaluate.logits(quantized, images, config.data.batch_size, where, journal, "evaluate")
        if config.keep_model or config.tracker.log_model:
            from vitq.deploy.packed import save_packed

            save_packed(quantized, config, size.fp_bytes, run_dir.model_path)
    with journal.timed("cost"):
        cost = analysis.cost(quantized, blank(config, where))
    run_dir.write_sites(sites)
    run_dir.write_predictions(evaluate.predictions(logits, labels))
    result = Result(
        signature=run_dir.signature,
        config=config.to_dict(),
        metrics=Metrics(**evaluate.metrics(logits, fp, labels), n_eval=len(images)),
        size=size,
        cost=cost,
        timings=Timings(total=journal.total(), stages=journal.timings),
        memory=host.peak_memory(),
        provenance=host.provenance(journal.started_at, journal.attempt, journal.planned_code),
    )
    return result, sites, quantized


def _quantize(
    config: RunConfig, model: nn.Module, where: torch.device, journal: Journal, run_dir: RunDir
) -> tuple[Size, pd.DataFrame, QuantizedModel]:
    """Apply the recipe and store its artifacts. Returns sizes, the site table, and the quantized model."""
    from vitq import recipe, sites
    from vitq.shelf import SHELF
    from vitq.steps.checkpoint import Checkpoint

    fp_bytes = sites.model_bytes(model)
    if not config.method.quantizes:
        quantized = recipe.equipped(config, model)
        # Nothing is quantized: one blank image is enough to see the shapes.
        table = sites.site_table(quantized, [sites.blank(config, where)])
        weight_bits, activation_bits = sites.mean_bits(table)
        return (
            Size(
                mean_weight_bits=weight_bits,
                mean_activation_bits=activation_bits,
                fp_bytes=fp_bytes,
                quantized_bytes=fp_bytes,
            ),
            table,
            quantized,
        )
    work = recipe.apply(config, model, where, journal, Checkpoint(run_dir.state_dir), journal.timed, SHELF)
    quantized = work.model
    for name, artifact in work.artifacts.items():
        run_dir.write_artifact(name, artifact)
    with journal.timed("sites"):
        journal.stage("sites")
        # The error of each site is measured on the first calibration batch: it is a report, not a part of the method.
        table = sites.site_table(quantized, work.batches(min(config.calib.size, config.calib.batch_size)))
    weight_bits, activation_bits = sites.mean_bits(table)
    size = Size(
        mean_weight_bits=weight_bits,
        mean_activation_bits=activation_bits,
        fp_bytes=fp_bytes,
        quantized_bytes=sites.quantized_bytes(quantized, sites.model_bytes(quantized.model)),
    )
    return size, table, quantized


def _probe(config: RunConfig, run_dir: RunDir, model: QuantizedModel, journal: Journal) -> BaseException | None:
    """Look at the quantized model. The run is done and stays so, whatever a probe does; Ctrl-C is returned."""
    from vitq import device
    from vitq.probes.perform import perform
    from vitq.probes.subject import Subject

    def subject() -> Subject:
        return Subject.of(config, model, device.resolve(config.device), journal)

    try:
        for outcome in perform(run_dir, subject, config.probe):
            journal.note(outcome.line())
    except KeyboardInterrupt as error:
        # The mirror of a finished run ends well before the process does.
        return error
    finally:
        journal.rest()
    return None


def _tracker(run_dir: RunDir) -> Tracker:
    """The tracker that a stored config asks for. What keeps it from being made is recorded like any other failure."""
    from vitq import track

    try:
        return track.make(stored_config(run_dir).tracker)
    except VitqError as error:
        Journal(run_dir, Progress()).fail(error)
        raise


def main(argv: Sequence[str] | None = None) -> int:
    """Run the given signatures one after another; exit code 1 when one of them failed.

    A signal to stop (`signals.STOPPING`) ends the run under way: its status says so, its state and its claim are in
    order, and the exit code is 128 + the signal's number.
    """
    parser = argparse.ArgumentParser(prog="python -m vitq.job", description=__doc__)
    parser.add_argument("--runs-dir", required=True, help="the store, e.g. runs")
    parser.add_argument("--group", default=None, help="name of the sweep, for the tracker")
    parser.add_argument("signatures", nargs="*", metavar="SIGNATURE")
    parser.add_argument(
        "--feed", type=int, metavar="FD", help="signatures come from stdin; how each ended goes to this descriptor"
    )
    parser.add_argument(
        "--take-over", action="store_true", help="wait for runs whose owner on another machine is silent, and take them"
    )
    args = parser.parse_args(argv)
    if bool(args.signatures) == (args.feed is not None):
        parser.error("give the signatures of planned runs, or --feed FD")
    try:
        with signals.interruptible(_INSIST):
            return _attempt_all(Store(args.runs_dir), args)
    except signals.Interrupted as stop:
        print(f"{stop}; finished blocks are kept", file=sys.stderr)
        return 128 + stop.number


def _attempt_all(store: Store, args: argparse.Namespace) -> int:
    if args.feed is not None:
        with os.fdopen(args.feed, "w") as answers:
            for line in sys.stdin:
                name = line.strip()
                print(name, _attempt(store.run(name), args.group), file=answers, flush=True)
        return 0
    ended = {name: _attempt(store.run(name), args.group) for name in args.signatures}
    if args.take_over:
        busy = [name for name, word in ended.items() if word == "busy"]
        ended |= {name: _attempt(store.run(name), args.group, Claim.take_over) for name in busy}
    return 1 if any(word.startswith("failed") for word in ended.values()) else 0


def _attempt(run_dir: RunDir, group: str | None, take: Callable[[RunDir], Claim | None] = Claim.take) -> str:
    """Execute a run under its claim. `done`, `busy` (another process is at it), or `failed` and the error in one line.

    An error stops this run alone: the next signature still runs, and the record holds the traceback.
    """
    name = run_dir.signature
    try:
        claim = None if run_dir.is_done() else take(run_dir)
        if claim is None:
            done = run_dir.is_done()
            print(f"{name} is {'finished' if done else 'executed by another process'}; skipped", file=sys.stderr)
            return "done" if done else "busy"
        with claim:
            if run_dir.is_done():  # finished between the question and the claim
                return "done"
            try:
                execute(run_dir, Progress(), _tracker(run_dir), group)
            except Exception as error:  # noqa: BLE001 - see above
                print(f"{name} failed: {error}", file=sys.stderr)
                return f"failed {brief(error)}"
        return "done"
    except signals.Interrupted:
        signals.heard()
        give_back(run_dir)
        raise


if __name__ == "__main__":
    sys.exit(main())
