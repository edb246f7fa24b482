"""Methods and controls to compare ESamp with, one self-contained file each."""

from esamp.baselines.noise import GaussianNoise as GaussianNoise
