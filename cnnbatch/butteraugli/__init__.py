"""Butteraugli, a measure of what the eye sees of the difference between two pictures, in torch and with gradients.

The definition is that of libjxl 0.7 (Jyrki Alakuijala, Google; lib/jxl/butteraugli) with the settings of its program
`butteraugli_main`. Cones that are adapted to the light around them respond in X (red less green), Y (both) and B (blue); each
is split into bands of frequency, and their differences are weighed, in high bands along short lines, masked by how busy the
original is nearby, and added up; the same once more in half of the resolution. 0 is the same picture, up to 1 hardly anything
can be seen. The measure is not symmetric: what is new counts more than what is lost.
"""

from cnnbatch.butteraugli.difference import butteraugli, difference_map, norm, three_norm

__all__ = ["butteraugli", "difference_map", "norm", "three_norm"]
