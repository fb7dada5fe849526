"""Runtimes that execute an exported model."""
