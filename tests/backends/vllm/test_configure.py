"""New settings for an engine that runs, and what is left where they cannot be had."""

import dataclasses
from types import SimpleNamespace
from weakref import ref

import pytest
import torch

from esamp.backends.vllm.generator import VllmGenerator
from esamp.backends.vllm.parameters import EngineSettings
from esamp.baselines import Cooling
from esamp.distiller import MeanDistiller
from esamp.errors import UsageError
from esamp.explorer import ESamp
from esamp.method import Vanilla
from esamp.mlp import MLPDistiller
from steps import HIDDEN

from .outputs import Scheduler, request
from .piloting import Core, drive, open_pilot, states, warm_up


class Huge(MeanDistiller):
    """Settings of distillers that do not fit."""

    def open(self, groups, hidden, device):
        raise RuntimeError("out of memory")


HUGE = EngineSettings(esamp=ESamp(beta=2.0, distiller=Huge()), max_groups=1)


def assert_steers_as_new(pilot, scheduler, core, request, beta, finished=()):
    """A request that comes now is steered as in an engine that has just started."""
    drive(pilot, scheduler.step(request, finished=list(finished)), states(1, 0))
    for seed in (1, 2, 3):
        shown = states(1, seed)
        expected = core.step(*shown, {0: (0, beta)})
        turn = drive(pilot, scheduler.step(), shown)
        assert turn.pushed == [request.name]
        torch.testing.assert_close(turn.states, expected)
    assert pilot.stats()["faults"] == {}


def test_configure_changes_settings_and_forgets_requests():
    pilot = open_pilot()
    scheduler = warm_up(pilot, request("b"))
    mean = ESamp(beta=2.0, distiller=MeanDistiller())
    pilot.configure(EngineSettings(esamp=mean, max_groups=3))
    stats = pilot.stats()
    assert stats["requests_open"] == 0
    assert stats["settings"] == pilot.settings.describe()
    assert "mean distiller" in stats["settings"]
    assert stats["state_bytes_per_group"] == MeanDistiller().state_bytes(HIDDEN)
    assert drive(pilot, scheduler.step(), states(1, 7)).reads is None
    silent = request("b", params={"extra_args": None})
    assert_steers_as_new(pilot, scheduler, Core(MeanDistiller()), silent, 2.0, finished=["b"])


def test_a_generator_tells_its_engine_all_that_is_the_engines():
    told = []
    llm = SimpleNamespace(collective_rpc=lambda name, args: told.append((name, *args)))
    generator = VllmGenerator(llm=llm, settings=EngineSettings(max_groups=7, timing=True))
    method = ESamp(
        capture=False, learn_tokens=3, push="orthogonal", distiller=MeanDistiller(ridge=5.0)
    )
    generator._prepare(Cooling(within=method, final=0.5, over=4), {(1,): 16, (2,): 16})
    ((name, given),) = told
    assert name == "esamp_configure"
    assert EngineSettings.parse(given) == generator.settings
    assert generator.settings == EngineSettings(
        esamp=dataclasses.replace(method, beta=0.0),
        max_groups=2,
        timing=True,
        cooling_final=0.5,
        cooling_over=4,
    )


def test_a_generator_has_distillers_for_the_groups_of_its_requests():
    told = []
    llm = SimpleNamespace(collective_rpc=lambda name, args: told.append(args[0]["max_groups"]))
    generator = VllmGenerator(llm=llm, settings=EngineSettings(max_groups=40))
    paper, each = ESamp.paper(), ESamp(distiller=MLPDistiller(), scope="sample")
    prompts = {(1,): 16, (2,): 16, (3,): 32}
    for method, wanted in [
        (ESamp(), prompts),  # what an engine starts with, it has
        (paper, dict.fromkeys([(1,)], 16)),
        (paper, prompts),
        (paper, dict.fromkeys([(1,)], 16)),  # room is not given back
        (Vanilla(), prompts),
        (each, dict.fromkeys([(1,)], 16)),
        (each, prompts),  # 64, of which 40 at once was all that was allowed
        (each, prompts),
    ]:
        generator._prepare(method, wanted)
    assert told == [1, 3, 16, 40]


def test_configure_starts_the_clock():
    pilot = open_pilot()
    pilot.configure(EngineSettings(timing=True))
    assert pilot.stats()["own_seconds"] is not None


def test_totals_go_on_with_new_settings():
    pilot = open_pilot()
    warm_up(pilot, request("a"), steps=4)
    pilot.configure(EngineSettings())
    warm_up(pilot, request("b"), steps=3)
    assert pilot.stats()["rows_steered"] == 3 + 2


@pytest.mark.parametrize("broadcast", [None, torch.clone], ids=["one rank", "ranks"])
def test_the_old_state_is_gone_before_the_new_one_is_there(broadcast):
    pilot, seen = open_pilot(broadcast=broadcast), []
    scheduler = warm_up(pilot, request("a", params={"top_p": 0.9}))
    old = ref(pilot.explorer.bank), ref(pilot.explorer), ref(pilot.roster)

    class Watching(MeanDistiller):
        def open(self, groups, hidden, device):
            seen.extend(each() for each in old)
            return super().open(groups, hidden, device)

    pilot.configure(EngineSettings(esamp=ESamp(beta=0.0, distiller=Watching())))
    assert seen == [None, None, None]
    drive(pilot, scheduler.step(), states(1, 7))
    assert pilot.stats()["faults"] == {}


# -- where the new settings cannot be had ------------------------------------------------------


def test_another_layer_is_refused_and_nothing_changes():
    pilot, other = open_pilot(layer=2), open_pilot(layer=2)
    scheduler, its = (warm_up(each, request("0_a"), request("b")) for each in (pilot, other))
    before = pilot.stats()
    message = "layer is 1, and this engine shows layer 2: start another one"
    with pytest.raises(UsageError, match=message):
        pilot.configure(EngineSettings(esamp=ESamp(beta=2.0, layer=1), max_groups=1))
    assert pilot.stats() == before
    shown = states(2, 7)
    turn = drive(pilot, scheduler.step(), shown)
    assert turn.pushed == ["0_a", "b"]
    assert torch.equal(turn.states, drive(other, its.step(), shown).states)


def test_the_layer_that_is_shown_may_be_given_again():
    pilot = open_pilot(layer=2)
    pilot.configure(EngineSettings(esamp=ESamp(beta=2.0, layer=2)))
    assert pilot.settings.esamp.beta == 2.0


def test_an_engine_lives_on_with_the_old_settings_when_new_ones_do_not_fit():
    pilot = open_pilot(beta=0.5)
    scheduler, before = warm_up(pilot, request("b")), pilot.stats()
    with pytest.raises(RuntimeError, match="out of memory"):
        pilot.configure(HUGE)
    assert pilot.stats() == before | {"requests_open": 0, "groups_open": 0}
    turn = drive(pilot, scheduler.step(), states(1, 7))
    assert turn.reads is None, "it was in flight"
    silent = request("c", params={"extra_args": None})
    assert_steers_as_new(pilot, scheduler, Core(), silent, 0.5, finished=["b"])


def test_settings_that_do_not_fit_twice_can_be_followed_by_others_that_do():
    pilot = open_pilot()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="out of memory"):
            pilot.configure(HUGE)
    pilot.configure(EngineSettings(esamp=ESamp(beta=0.0, distiller=MeanDistiller())))
    core = Core(MeanDistiller())
    assert_steers_as_new(pilot, Scheduler(), core, request("a", beta=1.5), 1.5)


def test_ranks_still_agree_after_settings_that_did_not_fit():
    agreed = torch.randn(1, HIDDEN)
    pilot = open_pilot(broadcast=lambda values: agreed)
    with pytest.raises(RuntimeError, match="out of memory"):
        pilot.configure(HUGE)
    scheduler = warm_up(pilot, request("a", beta=2.0))
    shallow, deep = states(1, 7)
    turn = drive(pilot, scheduler.step(), (shallow, deep))
    torch.testing.assert_close(turn.states, deep + 2.0 * (deep - agreed))
