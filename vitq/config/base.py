"""The rules that all config classes share."""

from __future__ import annotations

from pydantic import ConfigDict

# A misspelt key is an error.
RULES = ConfigDict(extra="forbid")
