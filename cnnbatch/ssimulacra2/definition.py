"""The constants of SSIMULACRA2, version 2.1, as its authors published them (github.com/cloudinary/ssimulacra2)."""

import math
from functools import lru_cache
from typing import Final

import numpy as np

SCALES: Final = 6
LEAST_SIDE: Final = 8
"""Pixels a side of the smallest scale that is looked at."""

C2: Final = 0.0009
BIAS: Final = 0.0037930732552754493
ABSORBANCE: Final = (
    (0.30, 0.622, 0.078),
    (0.23, 0.692, 0.078),
    (0.24342268924547819, 0.20476744424496821, 0.55180986650955360),
)
"""Linear RGB → responses of the long, the middle and the short cones, as JPEG XL has them; each row adds up to 1."""

X_GAIN: Final = 14.0
X_OFFSET: Final = 0.42
Y_OFFSET: Final = 0.01
B_OFFSET: Final = 0.55

SIGMA: Final = 1.5
RADIUS: Final = round(3.2795 * SIGMA + 0.2546)

# Weights by channel (X, Y, B), then scale, then norm (mean, 4-norm), then map (SSIM, ringing, lost detail).
WEIGHTS: Final = (
    (
        (0.0, 0.0007376606707406586, 0.0, 0.0, 0.0007793481682867309, 0.0),
        (0.0, 0.0004371155730107379, 0.0, 1.1041726426657346, 0.00066284834129271, 0.00015231632783718752),
        (0.0, 0.0016406437456599754, 0.0, 1.8422455520539298, 11.441172603757666, 0.0),
        (0.0007989109436015163, 0.000176816438078653, 0.0, 1.8787594979546387, 10.94906990605142, 0.0),
        (0.0007289346991508072, 0.9677937080626833, 0.0, 0.00014003424285435884, 0.9981766977854967, 0.00031949755934435053),
        (0.0004550992113792063, 0.0, 0.0, 0.0013648766163243398, 0.0, 0.0),
    ),
    (
        (0.0, 0.0, 0.0, 7.466890328078848, 0.0, 17.445833984131262),
        (0.0006235601634041466, 0.0, 0.0, 6.683678146179332, 0.00037724407979611296, 1.027889937768264),
        (225.20515300849274, 0.0, 0.0, 19.213238186143016, 0.0011401524586618361, 0.001237755635509985),
        (176.39317598450694, 0.0, 0.0, 24.43300999870476, 0.28520802612117757, 0.0004485436923833408),
        (0.0, 0.0, 0.0, 34.77906344483772, 44.835625328877896, 0.0),
        (0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    ),
    (
        (0.0, 0.0008680556573291698, 0.0, 0.0, 0.0, 0.0),
        (0.0, 0.0005313191874358747, 0.0, 0.00016533814161379112, 0.0, 0.0),
        (0.0, 0.0, 0.0, 0.0004179171803251336, 0.0017290828234722833, 0.0),
        (0.0020827005846636437, 0.0, 0.0, 8.826982764996862, 23.19243343998926, 0.0),
        (
            95.1080498811086,
            0.9863978034400682,
            0.9834382792465353,
            0.0012286405048278493,
            171.2667255897307,
            0.9807858872435379,
        ),
        (0.0, 0.0, 0.0, 0.0005130064588990679, 0.0, 0.00010854057858411537),
    ),
)


@lru_cache
def taps() -> tuple[float, ...]:
    """The kernel of 2·`RADIUS` + 1 taps that the reference program's recursive filter is: three cosines in place of a Gaussian.

    (Charalampidis, "Recursive implementation of the Gaussian filter using truncated cosine functions", IEEE Trans. Signal
    Processing 64(14), 2016, equations 37 to 57.)
    """
    k = np.array([1, 3, 5])
    omega = k * math.pi / (2 * RADIUS)
    sign = np.array([1, -1, 1])
    p = sign / np.tan(omega / 2)
    r = sign * p**2 / np.sin(omega)
    rho = np.exp(-0.5 * SIGMA**2 * omega**2) / RADIUS
    d_13, d_35, d_51 = (p[i] * r[j] - r[i] * p[j] for i, j in ((0, 1), (1, 2), (2, 0)))
    zeta = np.array([d_35, d_51, d_13]) / d_13
    beta = np.linalg.solve(np.stack([p, r, zeta]), [1, RADIUS**2 - SIGMA**2, zeta @ rho])
    n = np.arange(-RADIUS, RADIUS + 1)
    return tuple((beta[:, None] * np.cos(omega[:, None] * n)).sum(0).tolist())
