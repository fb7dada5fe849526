"""Errors of composition: which ones there are, and what each says on one line."""

from __future__ import annotations

from hydra.errors import HydraException, MissingConfigException
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from vitq.config.search_path import ConfigPath
from vitq.errors import Problem, first_line, unknown

# What Hydra, OmegaConf and their reader of YAML raise while they compose.
HYDRA_ERRORS = (HydraException, OmegaConfBaseException, YAMLError)


def explain(error: Exception, search_path: ConfigPath) -> Problem:
    """One line for a composition error, with the valid values where Hydra knows or we can look."""
    if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        what = ", ".join(part for part in (error.context, error.problem) if part)
        where = f"{mark.name}, line {mark.line + 1}, column {mark.column + 1}"
        return Problem(f"{where}: not YAML: {what}", value=where)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = error.missing_cfg_file.rpartition("/")
        options = search_path.files(group) if group else {}
        return unknown(group, option, options, key=group) if options else Problem(first_line(error))
    # Only Hydra's own errors hide the one that matters. OmegaConf's name the full key, and under a debugger or coverage
    # their __cause__ is the same error without it.
    cause: BaseException = error
    if not isinstance(error, OmegaConfBaseException) and isinstance(error.__cause__, OmegaConfBaseException):
        cause = error.__cause__
    if isinstance(cause, MissingMandatoryValue):
        return Problem(f"{cause.full_key}: missing; set it with {cause.full_key}=VALUE", str(cause.full_key))
    text = first_line(error)
    if cause is not error and first_line(cause) not in text:
        text = f"{text} ({first_line(cause)})".removeprefix(" ")
    return Problem(text, str(getattr(cause, "full_key", None) or ""))
