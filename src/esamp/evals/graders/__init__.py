"""Judges of samples, and the processes that they work in."""

from esamp.evals.graders.choice import ChoiceGrader as ChoiceGrader
from esamp.evals.graders.code import HumanEvalGrader as HumanEvalGrader
from esamp.evals.graders.code import LiveCodeBenchGrader as LiveCodeBenchGrader
from esamp.evals.graders.code import MBPPGrader as MBPPGrader
from esamp.evals.graders.expression import MathGrader as MathGrader
from esamp.evals.graders.gym import GymGrader as GymGrader
from esamp.evals.graders.number import NumberGrader as NumberGrader
from esamp.evals.graders.pool import GradingPool as GradingPool
