"""One planned run, from its stored config to its result. Importing this module does not import torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from vitq.config import RunConfig
from vitq.job.run_log import RunLog
from vitq.progress import Progress
from vitq.store import Run, RunDir
from vitq.store.result import Result

if TYPE_CHECKING:
    import pandas as pd

    from vitq.probes.probed_model import Subject
    from vitq.quant.model import QuantizedModel
    from vitq.track import Tracker


def execute(run_dir: RunDir, progress: Progress, tracker: Tracker, group: str | None = None) -> Result:
    """Run one planned config and record its result; the W&B mirror gets it afterwards.

    Raises whatever stopped the run, after it is recorded in `status.json` and `log.txt`. Nothing partial is visible:
    the sites and the predictions are written before `result.json`, and only that file makes a run done.
    """
    run_log = RunLog(run_dir, progress)
    try:
        config = Run(run_dir).config
        measured = _engine(config)
        with tracker.run(config, run_dir.signature, group, run_dir) as tracked:
            run_log.begin()
            try:
                with run_log.with_steps():
                    result, sites, model = measured(config, run_dir, run_log)
            except BaseException as error:
                run_log.fail(error)  # before the tracker closes its run, which may take long
                raise
            run_dir.write_result(result)
            run_log.finish()
            run_dir.clear_state()
            stopped = _probe(config, run_dir, model, run_log) if config.probe.wanted else None
            tracked.result(result, sites)
        if stopped is not None:
            raise stopped
        return result
    except BaseException as error:
        if not run_log.ended and not run_dir.is_done():
            run_log.fail(error)
        raise


def _engine(config: RunConfig) -> Callable[[RunConfig, RunDir, RunLog], tuple[Result, pd.DataFrame, QuantizedModel]]:
    """What measures a run, with all that it imports: a run's seconds are those of its work."""
    from vitq.job.imports import import_ahead
    from vitq.job.measure import measured

    import_ahead(config)
    return measured


def _probe(config: RunConfig, run_dir: RunDir, model: QuantizedModel, run_log: RunLog) -> BaseException | None:
    """Look at the quantized model. The run is done and stays so, whatever a probe does; Ctrl-C is returned."""

    from vitq import device
    from vitq.probes.probed_model import Subject
    from vitq.probes.run_probes import perform

    def subject() -> Subject:
        return Subject.of(config, model, device.resolve(config.device), run_log)

    try:
        for outcome in perform(run_dir, subject, config.probe):
            run_log.note(outcome.line())
    except KeyboardInterrupt as error:
        # The mirror of a finished run ends well before the process does.
        return error
    finally:
        run_log.finish_probes()
    return None
