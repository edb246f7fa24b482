"""Methods and controls to compare ESamp with, one self-contained file each."""

from esamp.baselines.contrastive import ContrastiveDecoding as ContrastiveDecoding
from esamp.baselines.cooling import Cooling as Cooling
from esamp.baselines.fire import Fire as Fire
from esamp.baselines.frequency import FrequencyPenalty as FrequencyPenalty
from esamp.baselines.neighbour import Neighbour as Neighbour
from esamp.baselines.noise import GaussianNoise as GaussianNoise
from esamp.baselines.override import OverRIDE as OverRIDE
from esamp.baselines.part import Part as Part
from esamp.baselines.random_steering import RandomSteering as RandomSteering
from esamp.baselines.sharpening import Sharpening as Sharpening
from esamp.baselines.strength import Moderated as Moderated
from esamp.baselines.subtraction import Subtraction as Subtraction
from esamp.baselines.tree_of_thoughts import TreeOfThoughts as TreeOfThoughts
from esamp.baselines.vocabulary import VocabularySpace as VocabularySpace
