"""SSIMULACRA2, a measure of what the eye sees of the difference between two pictures.

Version 2.1 of the published definition (Jon Sneyers, Cloudinary, 2023, with its weights): three maps of error (SSIM without its
gamma correction, ringing, lost detail) of the three channels of XYB, at up to six scales, each as a mean and as a 4-norm;
108 norms, a weighted sum, and a polynomial of that sum. 100 is the same picture, 90 cannot be told from it at first sight,
70 is high quality, 50 medium, 30 low.

`ssimulacra2` measures pictures on a CPU; `weighted_sum` and `score` are the same in torch, with gradients, on any device.
"""

from cnnbatch.ssimulacra2.differentiable import score, weighted_sum
from cnnbatch.ssimulacra2.pictures import ssimulacra2

__all__ = ["score", "ssimulacra2", "weighted_sum"]
