"""The method that a sweep names as its baseline, looked up among those that it runs before anything starts."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from vitq.errors import Problem, unknown

_NONE = "sweep.baseline=null compares with none."


@dataclass(frozen=True)
class Baseline:
    """What a word of `sweep.baseline` stands for. name: the recipe's, as results have it. problem: why there is none to
    compare with, and nothing may start; warning: the same of a method that exists."""

    name: str
    problem: Problem | None = None
    warning: str | None = None


def find(word: str, methods: Mapping[str, Collection[str]], files: Collection[str]) -> Baseline:
    """The baseline `word` of a sweep.

    methods: name of each recipe that the sweep runs → words of the axis `method` that choose it (`scale_predictor` is
    `scale_predictor(repq_vit)` once its base is resolved). files: names of all methods that there are.
    """
    if word in methods:
        return Baseline(word)
    chosen = [name for name, words in methods.items() if word in words]
    if len(chosen) == 1:
        return Baseline(chosen[0])
    if chosen:
        several = f"method={word} is several methods of this sweep; valid: {', '.join(sorted(chosen))}"
        text = f"sweep.baseline={word}: {several}. {_NONE}"
        return Baseline(word, Problem(text, "sweep.baseline", word, sorted(chosen)))
    on_base = re.fullmatch(r"([^()]+)\(([^()]+)\)", word)
    if all(part in files for part in (on_base.groups() if on_base else (word,))):
        # An override of `method` may well drop it, and the runs are worth as much.
        absent = f"not among the methods of this sweep ({', '.join(sorted(methods))})"
        return Baseline(word, warning=f"sweep.baseline={word}: {absent}; no run is compared with a baseline. {_NONE}")
    action = f"Name a method of it. {_NONE}"
    return Baseline(word, problem=unknown("sweep.baseline", word, methods, action, key="sweep.baseline"))
