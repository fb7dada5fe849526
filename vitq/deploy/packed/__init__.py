"""Packed checkpoints: codes at their bit-widths, scales, and what it takes to read them back."""
