"""Fail unless a picture is there and shows something. Usage: picture.py FILE."""

import sys

import numpy as np
from matplotlib.image import imread

pixels = imread(sys.argv[1])
colours = len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0))
print(f"{sys.argv[1]}: {pixels.shape[1]} x {pixels.shape[0]}, {colours} colours, deviation {pixels[..., :3].std():.3f}")
sys.exit(0 if colours >= 50 and pixels[..., :3].std() > 0.01 else "the picture is blank")
