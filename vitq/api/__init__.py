"""The functions of the public API (`import vitq`): models of the caller, runs and sweeps."""
