import time

import torch

from esamp.cli.timing import Timed
from esamp.method import Call, Steering, Vanilla
from steps import random_step


class Slow(Steering):
    def steer(self, step):
        time.sleep(0.01)

    def learn(self, step, tokens):
        time.sleep(0.01)


class SlowMethod(Vanilla):
    def start(self, call):
        return Slow()


def test_own_time_and_step_time_leave_out_the_first_token():
    timed = Timed(method=SlowMethod())
    call = Call(hidden=4, prompts=[(1,)], groups=[0], seed=0, device=torch.device("cpu"))
    steering = timed.start(call)
    step = random_step(groups=[0], hidden=4)
    for _ in range(3):
        steering.steer(step)
        time.sleep(0.02)
        steering.learn(step, torch.zeros(1, dtype=torch.long))
    assert 0.04 <= timed.own_seconds < timed.step_seconds
    assert timed.step_seconds >= 0.08
    assert 0 < timed.share < 1
