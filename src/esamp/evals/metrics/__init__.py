"""Measures: pure functions of arrays, without state and without I/O."""

from esamp.evals.metrics.diversity import distinct_n as distinct_n
from esamp.evals.metrics.diversity import mean_similarity as mean_similarity
from esamp.evals.metrics.diversity import vendi as vendi
