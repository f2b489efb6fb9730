from __future__ import annotations
import numpy as np


def erf(x):
    from scipy.special import erf

    return erf(x)
