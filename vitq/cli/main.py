"""Dispatch. Each command is a module with `parser()` and `main(args)`; `--help` imports nothing heavy."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from vitq import __version__
from vitq.cli import options, output
from vitq.errors import VitqError, unknown

COMMANDS = {
    "run": "execute one configuration, or with -m every combination of several values",
    "sweep": "execute a sweep: a file that names methods, bit-widths, models, seeds",
    "tune": "choose a method's options on calibration images held out of calibration",
    "probe": "look at the models of finished runs: loss landscapes and the like",
    "status": "where the runs of a sweep stand",
    "show": "one run: its figures, config, sites, files and log",
    "diff": "in what two runs differ: config, code and figures",
    "retry": "execute the runs of a sweep again that have no result",
    "cancel": "end what executes the runs of a sweep, or one run; results are kept",
    "logs": "what a run wrote while it was executed",
    "gc": "remove what belongs to no sweep, and what dead processes left",
    "sync": "upload to W&B what was tracked offline",
    "dashboard": "create a saved view and a report at W&B",
    "track": "make the W&B mirror of runs again, from the store alone",
    "report": "write a sweep's report: HTML, CSV, Markdown, LaTeX, Parquet",
    "serve": "show the reports live in a browser",
    "export": "write the model of a finished run: bit-packed, ONNX or OpenVINO",
    "bench": "speed and accuracy of a run's integer model beside its float model",
    "reproduce": "a paper's figures made again under its protocol, ours beside the published ones",
    "list": "models, methods, sweeps and runs that exist, or the quantized sites of a model",
    "fetch": "download the pretrained weights of a sweep, for nodes without network",
    "completion": "a script with which a shell completes these commands",
    "published": "what papers report for a method, model and bit-width, and why their figures differ",
}

_COMPUTES = ("run", "sweep", "tune", "reproduce", "retry", "probe")

EXAMPLES = """\
examples:
  vitq sweep demo                                   eleven methods, three bit-widths, two models; no download
  vitq run model=vit_digits method=repq_vit bits=w4a4
  vitq run -m method=minmax,mse bits=w8a8,w4a4      every combination
  vitq status demo
  vitq report demo --format html
  vitq list methods

exit codes: 0 all runs have a result; 1 a run failed; 2 a command or config is invalid, nothing was started;
130 stopped by Ctrl-C, finished runs are kept and the same command goes on from there
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. SystemExit is argparse's, for `--help` and unknown options."""
    words = list(sys.argv[1:] if argv is None else argv)
    top = _top()
    if not words or words[0].startswith("-"):
        top.parse_args(words)
        top.print_help(sys.stderr)
        return 2
    name = words[0]
    if name not in COMMANDS:
        top.error(unknown("command", name, COMMANDS))
    output.write_any_sign()
    full: OSError | None = None
    try:
        command = importlib.import_module(f"vitq.cli.{name}")
        # Intermixed: overrides may stand before, between and after the options.
        args = command.parser().parse_intermixed_args(options.one_store(name, words[1:]))
        args.argv = words
        if "://" in (store := getattr(args, "runs_dir", None) or ""):
            text = f"--runs-dir {store}: it is a URL; the store is a folder of this machine, a mounted bucket too"
            raise VitqError(text, "--runs-dir", store)
        code: int = command.main(args)
        sys.stdout.flush()
        if full := output.lost():
            raise full
        return code
    except VitqError as error:
        print(f"vitq {name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        kept = "; finished runs are kept, the same command goes on from there" if name in _COMPUTES else ""
        print(f"\nvitq: stopped{kept}", file=sys.stderr)
        return 130
    except RuntimeError as error:
        if "home directory" not in str(error):  # what pathlib says of `~` where there is none
            raise
        print(f"vitq {name}: {error} A path begins with ~, and HOME is not set; write it out", file=sys.stderr)
        return 2
    except OSError as error:
        if not _has_folder():
            gone = "the current folder was removed or renamed; change into one that is there"
            print(f"vitq {name}: {gone}", file=sys.stderr)
            return 2
        if not isinstance(error, BrokenPipeError) and error is not full and not output.is_full(error):
            raise
        # Python would complain once more when it flushes at exit.
        sys.stdout = None
        if isinstance(error, BrokenPipeError):  # the reader of our output (`| head`) has gone
            return 141
        text = f"the output cannot be written ({error.strerror}); what was computed is in the store, see `vitq status`"
        print(f"vitq {name}: {text}", file=sys.stderr)
        return 1


def _has_folder() -> bool:
    try:
        os.getcwd()
        return True
    except FileNotFoundError:
        return False


def _top() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="vitq",
        usage="vitq COMMAND [OPTIONS] [OVERRIDES]",
        description="Sweeps of post-training quantization methods over vision transformers.",
        epilog=f"commands:\n{commands}\n\n`vitq COMMAND --help` says more.\n\n{EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"vitq {__version__}")
    return parser
