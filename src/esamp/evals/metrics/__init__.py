"""Measures: pure functions of arrays, without state and without I/O.

What is undefined is None, never 0: pass@k with fewer than k samples, a similarity of one sample.
"""

from esamp.evals.metrics.answers import distinct_answers as distinct_answers
from esamp.evals.metrics.answers import maj_at_k as maj_at_k
from esamp.evals.metrics.answers import maj_at_ks as maj_at_ks
from esamp.evals.metrics.answers import pass_at_k as pass_at_k
from esamp.evals.metrics.diversity import distinct_n as distinct_n
from esamp.evals.metrics.diversity import distinct_within as distinct_within
from esamp.evals.metrics.diversity import mean_similarity as mean_similarity
from esamp.evals.metrics.diversity import vendi as vendi
from esamp.evals.metrics.dynamics import mean_by_position as mean_by_position
from esamp.evals.metrics.dynamics import positions_up_to as positions_up_to
from esamp.evals.metrics.dynamics import reaching as reaching
from esamp.evals.metrics.likelihood import perplexity as perplexity
from esamp.evals.metrics.likelihood import realised_entropy as realised_entropy
from esamp.evals.metrics.likelihood import realised_kl as realised_kl
from esamp.evals.metrics.words import self_bleu as self_bleu
from esamp.evals.metrics.words import words_of as words_of
