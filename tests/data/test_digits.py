"""The embedded digits are those that scikit-learn loads, and reading them does not import it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
from sklearn.datasets import load_digits

from vitq.data import digits


def test_scans_and_labels_are_scikit_learns() -> None:
    scans, labels = digits._scans()
    wanted = load_digits()
    assert scans.dtype == np.uint8
    assert labels.dtype == np.int64
    assert np.array_equal(scans, wanted.images)
    assert np.array_equal(labels, wanted.target)


def test_the_package_is_not_imported() -> None:
    script = "import sys; from vitq.data import digits; digits.Digits('test'); print('sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
