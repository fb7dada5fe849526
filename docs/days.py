"""Two days of a lab with vitq, recorded: `python docs/days.py` types the commands in an empty folder and writes
docs/days.md. A test does the same and says when the page is old.

Times, signatures, commits and the folder are replaced, so that two recordings of one machine are the same.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

import vitq
from vitq.cli import main
from vitq.store import Run, Store

PAGE = Path(__file__).with_suffix(".md")
HOME = "/home/lab"  # what the folder is called in the page
_WIDTH = "100"
# What a slow machine says every ten seconds.
_PROGRESS = re.compile(r"\[\d+/\d+\] .*  (?!started|done|finished|failed)\S[^=]* \d+/\d+\b[^=]*$")


@dataclass(frozen=True)
class Typed:
    """A line at a shell: vitq, cat or mv, perhaps with `| head -N`. {WORDS}: the run whose label has these words.

    code: the exit code that it has to have.
    """

    line: str
    code: int = 0


@dataclass(frozen=True)
class File:
    """A file that somebody writes in an editor."""

    path: str
    text: str


DAYS: tuple[str | Typed | File, ...] = (
    "## Day one: look around, with what is embedded",
    "Nothing but vitq in an empty folder. Which recipes are there, and what would a run be?",
    Typed("vitq list methods | head -4"),
    Typed("vitq run method=repq_vit bits=w4a4 tracker=none --dry-run"),
    "A mistake is one message, before anything starts. Then the run, and the same command once more.",
    Typed("vitq run method=repq_vit bits=w4a4 calib.sise=64 tracker=none", code=2),
    Typed("vitq run method=repq_vit bits=w4a4 tracker=none"),
    Typed("vitq run method=repq_vit bits=w4a4 tracker=none"),
    "A first comparison. The run of before is not computed again.",
    Typed("vitq run -m method=fp32,minmax,repq_vit bits=w4a4,w3a3 tracker=none --name first_look"),
    Typed("vitq report first_look --compare repq_vit minmax"),
    Typed("vitq status first_look"),
    Typed("vitq show {repq_vit W3A3} | head -14"),
    "## Day two: the lab's own model, images and recipe",
    "A checkpoint of the lab's trainer and a folder of gray PNG images are already there, with a note of a colleague "
    "among them. Four files say what they are, and what is to be found out.",
    File(
        "conf/model/lab_vit.yaml",
        "# The lab's own weights for the small ViT\ndefaults: [vit_digits]\ntrain: null\n"
        "checkpoint: weights/lab_vit.pth\n",
    ),
    File(
        "conf/data/scans.yaml",
        "# Scanned digits, a folder per split, in it one per class\ndefaults: [imagenet]\nname: scans\n"
        "root: images/scans\nnum_classes: 10\n",
    ),
    File(
        "conf/method/mine.yaml",
        "# RepQ-ViT with uniform codes for the attention probabilities\nbase: repq_vit\nname: mine\n"
        "kinds:\n  probs: {quantizer: uniform, granularity: tensor, range: minmax}\n",
    ),
    File(
        "sweeps/ablation.yaml",
        "# What range and reparameterization are worth\n"
        "defaults: [config, override /model: lab_vit, override /data: scans, override /method: mine, _self_]\n"
        "bits: {weight: 3, activation: 3}\ncalib: {size: 32}\n"
        "sweep: {description: range of the probabilities and reparameterization}\n"
        "hydra:\n  sweeper:\n    params:\n      method.kinds.probs.range: minmax,mse\n"
        "      method.steps.reparameterize.enabled: true,false\n",
    ),
    Typed("vitq sweep ablation --dry-run"),
    Typed("vitq sweep ablation"),
    "Four variants of one method; which of the two changes matters?",
    Typed("vitq report ablation --along method.steps.reparameterize.enabled"),
    Typed("vitq list runs sweep=ablation"),
    Typed("vitq diff {range=minmax, enabled=True} {range=mse, enabled=True}"),
    "One report over both days, and the table for the paper.",
    Typed("vitq report first_look ablation --format html --format latex"),
    Typed("cat runs/sweeps/first_look+ablation/report.tex | head -24"),
    "The runs were mirrored to W&B's offline format. What would be uploaded, and how would the dashboard group them?",
    Typed("vitq sync ablation --dry-run"),
    Typed("vitq dashboard --entity lab --sweep ablation --dry-run"),
    "The images move to another disk. A run knows its images by content, so it takes the new place.",
    Typed("mv images archive"),
    Typed("vitq export {range=minmax, enabled=True} data.root=archive/scans"),
    Typed("vitq sweep ablation data.root=archive/scans --dry-run | head -3"),
)


def record(folder: Path) -> str:
    """The page, as it comes out of these commands in an empty folder. Raises AssertionError for another exit code."""
    with _in(folder):
        _prepare()
        said = Recording(folder)
        lines = [
            "<!-- Written by `python docs/days.py`. Do not edit: run the command again. -->",
            "# Two days with vitq, recorded",
            "What was typed and printed, on the embedded digits and on a folder of PNG images. Times, signatures "
            "and the folder's name are replaced. [Your own](own.md) explains the files of day two.",
        ]
        block: list[str] = []
        for part in (*DAYS, ""):
            if isinstance(part, Typed):
                block += said.type(part)
                continue
            if block:
                lines.append("\n".join(["```console", *block, "```"]))
                block = []
            if isinstance(part, File):
                Path(part.path).parent.mkdir(parents=True, exist_ok=True)
                Path(part.path).write_text(part.text, encoding="utf-8")
                lines.append(f'```yaml title="{part.path}"\n{part.text}```')
            elif part:
                lines.append(part)
    return "\n\n".join(lines) + "\n"


class Recording:
    """Types commands and keeps what they print, with stable names for what changes from recording to recording."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: dict[str, str] = {}

    def type(self, typed: Typed) -> list[str]:
        """The line and what came back."""
        line = re.sub(r"\{([^{}]+)\}", lambda found: _signature(found[1])[:8], typed.line)
        command, _, pipe = line.partition(" | head -")
        printed = io.StringIO()
        with redirect_stdout(printed), redirect_stderr(printed):
            code = _run(shlex.split(command))
        assert code == typed.code, f"{line}: exit code {code}\n{printed.getvalue()}"
        shown = [text.rstrip() for text in printed.getvalue().rstrip().splitlines() if not _PROGRESS.match(text)]
        return self._steady([f"$ {line}", *(shown[: int(pipe)] if pipe else shown)])

    def _steady(self, lines: list[str]) -> list[str]:
        text = "\n".join(lines).replace(str(self._folder), HOME)
        for signature in re.findall(r"\b[0-9a-f]{16}\b", text):
            self._names.setdefault(signature, hashlib.sha256(f"{len(self._names)}".encode()).hexdigest()[:16])
        for signature, made in self._names.items():
            text = text.replace(signature, made).replace(signature[:8], made[:8])
        text = re.sub(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[\d.+:]*", "2026-11-30T09:00:00", text)
        text = re.sub(r"\b\d+(\.\d+)? s\b", "1.0 s", text)
        text = re.sub(r"\b\d+\.\d+ GB\b", "0.90 GB", text)
        text = re.sub(r"weights=[0-9a-f]{8}\b", "weights=01234567", text)
        text = re.sub(r"by code [0-9a-f]+( \(dirty\))?", "by code 0123456789ab", text)
        return _without_seconds(text.splitlines())


def _without_seconds(lines: list[str]) -> list[str]:
    """The lines with the last column of accuracy tables, the seconds, emptied."""
    steady, width = [], 0
    for line in lines:
        if re.match(r"\s*method\b.*\s s$", line):
            width = len(line)
        elif line.strip().startswith("size, MB"):
            width = 0
        # Seconds are right-aligned under their heading; other rows end before it.
        ends = width and len(line) == width
        steady.append(re.sub(r"\d+(\.\d+)?$", lambda found: "…".rjust(len(found[0])), line) if ends else line)
    return steady


def _run(words: list[str]) -> int:
    if words[0] == "vitq":
        return main(words[1:])
    if words[0] == "cat":
        print(Path(words[1]).read_text(encoding="utf-8"))
    elif words[0] == "mv":
        Path(words[1]).rename(words[2])
    else:
        raise ValueError(f"{words[0]}: valid: vitq, cat, mv")
    return 0


def _signature(words: str) -> str:
    """The signature of the one run whose label has all of these words."""
    store = Store("runs")
    labels = {name: Run(store.run(name)).label for name in store.signatures()}
    for sweep in store.sweeps():  # what a sweep varies, in its words
        for name, label in store.read_sweep(sweep).labels.items():
            labels[name] += f" {label}"
    (found,) = [name for name, label in labels.items() if all(word in label for word in re.split(r"[ ,]+", words))]
    return found


def _prepare() -> None:
    """What the lab has: a checkpoint of its trainer, and images."""
    import torch

    from vitq.data.digits import Digits

    full = vitq.run("method=fp32", "tracker=none", "runs_dir=elsewhere")
    weights = {f"module.{name}": value for name, value in full.float_model().state_dict().items()}
    Path("weights").mkdir()
    torch.save({"state_dict": weights, "epoch": 40}, "weights/lab_vit.pth")
    for split, source in (("train", "calib"), ("val", "test")):
        digits = Digits(source)
        for index in range(0, len(digits), 2):
            folder = Path("images", "scans", split, f"digit_{digits.labels[index]}")
            folder.mkdir(parents=True, exist_ok=True)
            image: Image.Image = digits.image(index)
            image.convert("L").save(folder / f"{index:04}.png")
    Path("images", "scans", "train", "digit_3", "ask_ana.txt").write_text("is 0042 a 3 or an 8?\n")


@contextmanager
def _in(folder: Path) -> Iterator[None]:
    """This process in a folder, with no settings but those of a new machine."""
    before, variables = Path.cwd(), dict(os.environ)
    for name in [name for name in os.environ if name.startswith("WANDB_")] + ["VITQ_CONFIG_DIR", "VITQ_RUNS_DIR"]:
        os.environ.pop(name, None)
    os.environ["COLUMNS"] = _WIDTH
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
        os.environ.clear()
        os.environ.update(variables)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        page = record(Path(made).resolve())
    PAGE.write_text(page, encoding="utf-8")
    print(PAGE, file=sys.stderr)
