"""The command line, one module per command."""

from vitq.cli.main import COMMANDS, main

__all__ = ["COMMANDS", "main"]
