"""Options of a method chosen by a search (Optuna). Trials are ordinary runs, scored on held-out calibration images: the
evaluation split is never opened.
"""
