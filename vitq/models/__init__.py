"""Models: how they are built and loaded, and what their parts are."""
