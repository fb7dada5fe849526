"""One run: executed, recorded, and its model made again. `python -m vitq.job --runs-dir DIR SIG…` runs several."""
