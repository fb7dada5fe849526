"""From what a user typed to runs: composed, checked, signed, estimated; and what a launcher is."""
