"""A saved view and a report at W&B for one sweep or a whole project; made without a network, saved with one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vitq.errors import VitqError
from vitq.track.base import need_package
from vitq.track.faults import redacted

if TYPE_CHECKING:
    from wandb_workspaces import workspaces
    from wandb_workspaces.reports import v2 as reports

# Columns of the run table that matter, in this order.
_COLUMNS = (
    "config:label.model",
    "config:method.name",
    "config:label.variant",
    "config:label.bits",
    "config:calib.size",
    "config:seed",
    "summary:top1",
    "summary:drop",
    "summary:mean_weight_bits",
    "summary:mean_activation_bits",
    "summary:quantized_bytes",
    "summary:seconds",
    "summary:error",
)


# What tells runs apart that are no seeds of each other.
GROUPS = ("label.model", "method.name", "label.variant", "label.bits", "calib.size")


@dataclass(frozen=True)
class Dashboard:
    """Where the runs are: a W&B project, or of it those of one sweep (its W&B group)."""

    entity: str
    project: str
    sweep: str | None = None

    @property
    def title(self) -> str:
        return f"vitq: {self.sweep or self.project}"

    def workspace(self) -> workspaces.Workspace:
        """The saved view: sections of panels over the runs, grouped by method and bits."""
        from wandb_workspaces import expr, workspaces

        sections = [workspaces.Section(name=name, panels=panels, is_open=True) for name, _, panels in _chapters()]
        settings = workspaces.RunsetSettings(
            filters=self._filter(),
            # All but the seed: what is averaged are seeds, and nothing else.
            groupby=[expr.Config(key) for key in GROUPS],
            order=[expr.Ordering(expr.Summary("top1"), ascending=False)],
            pinned_columns=list(_COLUMNS),
        )
        return workspaces.Workspace(
            entity=self.entity, project=self.project, name=self.title, sections=sections, runset_settings=settings
        )

    def report(self) -> reports.Report:
        """The report: the same panels, each with the question that it answers."""
        from wandb_workspaces.reports import v2 as reports

        blocks: list[Any] = [reports.TableOfContents()]
        for name, question, panels in _chapters():
            # Without entity and project they are the report's own; naming them here would be a question to the server.
            runs = reports.Runset(
                name=self.sweep or self.project,
                filters=self._filter(),
                order=[reports.OrderBy(reports.SummaryMetric("top1"), ascending=False)],
            )
            blocks += [
                reports.H2(text=name),
                reports.P(text=question),
                reports.PanelGrid(runsets=[runs], panels=panels),
            ]
        return reports.Report(
            entity=self.entity,
            project=self.project,
            title=self.title,
            description="Post-training quantization of vision transformers: method × bits, size, bits per layer.",
            blocks=blocks,
            width="fluid",
        )

    def spec(self) -> dict[str, Any]:
        """What would be sent, as plain JSON; no network. Ids in it are made anew each time."""
        view, report = self.workspace()._to_model(), self.report()._to_model()
        return {
            "entity": self.entity,
            "project": self.project,
            "workspace": {"name": self.title, "spec": _plain(view.spec)},
            "report": {"name": self.title, "spec": _plain(report.spec)},
        }

    def outline(self) -> list[str]:
        """What would be created, a line for each section."""
        of = f"the runs of sweep {self.sweep}" if self.sweep else "all runs"
        lines = [f"a saved view and a report {self.title!r} in {self.entity}/{self.project}, over {of}"]
        lines.append(f"runs grouped by {', '.join(GROUPS)}; bars: mean and standard deviation over seeds")
        for name, question, panels in _chapters():
            lines.append(f"  {name}: {question} ({len(panels)} panel{'' if len(panels) == 1 else 's'})")
        return lines

    def save(self) -> tuple[str, str]:
        """Create both; returns their addresses. Raises VitqError where W&B cannot be reached or refuses.

        Each call makes new ones: W&B has no name by which an older one could be replaced.
        """
        try:
            return str(self.workspace().save().url), str(self.report().save().url)
        except Exception as error:  # W&B documents no base class
            said = redacted(f"{type(error).__name__}: {error}")[:500]
            advice = "look at --entity and --project, at `wandb login`, and at the network; --dry-run needs none"
            raise VitqError(f"dashboard: W&B did not take it ({said}); {advice}", "wandb", said) from error

    def _filter(self) -> str:
        if self.sweep is None:
            return ""
        return f"Metric('Group') == {json.dumps(self.sweep)}"


def need_workspaces() -> None:
    """Raises VitqError where the extra `dashboard` is not installed."""
    need_package("wandb-workspaces", "vitq dashboard", "pip install 'vitq[dashboard]'")


def need_login() -> None:
    """Raises VitqError where no API key is known, or W&B does not know it."""
    import wandb

    # Silent: otherwise a missing key is a question on the terminal that waits for ever.
    wandb.setup(settings=wandb.Settings(silent=True))
    try:
        wandb.Api()
    except wandb.errors.Error as error:
        advice = "look at `wandb login`, WANDB_API_KEY and the network; --dry-run needs none of them"
        raise VitqError(f"dashboard: {redacted(str(error))} {advice}", "wandb") from error


def _chapters() -> list[tuple[str, str, list[Any]]]:
    """(heading, question, panels)."""
    from wandb_workspaces.reports import v2 as reports

    top1, seconds = reports.SummaryMetric("top1"), reports.SummaryMetric("seconds")
    grouped: dict[str, Any] = {
        "groupby": reports.Config("label.cell"),
        "groupby_aggfunc": "mean",
        "groupby_rangefunc": "stddev",
    }
    columns = (
        reports.Config("label.model"),
        reports.Config("method.name"),
        reports.SummaryMetric("mean_weight_bits"),
        reports.SummaryMetric("mean_activation_bits"),
        reports.Config("calib.size"),
        top1,
    )
    accuracy = [
        reports.BarPlot(title="top-1 (%), mean ± std over seeds", metrics=[top1], **grouped),
        reports.BarPlot(title="drop (points)", metrics=[reports.SummaryMetric("drop")], **grouped),
        reports.ParallelCoordinatesPlot(
            title="method, bits, calibration, top-1",
            columns=[reports.ParallelCoordinatesPlotColumn(metric=metric) for metric in columns],
        ),
    ]
    pareto = [
        reports.ScatterPlot(
            title="size and top-1", x=reports.SummaryMetric("quantized_bytes"), y=top1, log_x=True, running_ymax=True
        ),
        reports.ScatterPlot(title="seconds and top-1", x=seconds, y=top1, log_x=True),
    ]
    allocation = [
        reports.MediaBrowser(title="bits of each site", media_keys=["bits"], num_columns=2),
        reports.LinePlot(
            title="loss along the allocation's path",
            x=reports.Metric("allocation/step"),
            y=[reports.Metric("allocation/loss")],
            log_y=True,
        ),
        reports.WeavePanelSummaryTable(table_name="sites"),
    ]
    curves = reports.LinePlot(
        title="reconstruction loss of each block",
        x=reports.Metric("curves/iteration"),
        metric_regex="curves/(?!iteration).*",
        log_y=True,
    )
    probes = reports.MediaBrowser(title="probes", media_keys=list(PROBE_KEYS), num_columns=3)
    return [
        ("Accuracy by method × bits", "Which method keeps most of the model, at which width?", accuracy),
        ("Size and accuracy", "What is the best accuracy for a size? Above the line is nothing.", pareto),
        ("Bits per layer", "Where does an allocation spend its bits, run beside run?", allocation),
        ("Reconstruction", "Do the blocks converge, and to what?", [curves]),
        ("Landscapes", "Whose surroundings are flat?", [probes]),
        ("Runs compared", "What do two runs have in common, and what not?", [reports.RunComparer(diff_only="split")]),
    ]


# Media that probes leave; see vitq.track.probes.
PROBE_KEYS = ("probes/landscape", "probes/hessian", "probes/sensitivity", "probes/distributions")


def _plain(model: Any) -> Any:
    return json.loads(model.model_dump_json(by_alias=True, exclude_none=True))
