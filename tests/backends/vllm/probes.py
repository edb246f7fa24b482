"""What tests do inside the engine's process: record what passes, and break things."""

import torch

from esamp import ESamp, Explorer
from esamp.fusion import fuse_logits
from esamp.layout import Layout
from esamp.method import Step
from esamp.sampling import min_p, top_k, top_p

from .host import play


def worker_of(llm):
    return llm.llm_engine.model_executor.driver_worker.worker


class Recorder:
    """Keeps, for every steered step, what was shown, what the head read and what was drawn from."""

    def __init__(self, worker):
        self.pilot, self.model = worker.esamp_pilot, worker.model_runner.get_model()
        self.steps = []
        self._show = self.pilot.show

    def __enter__(self):
        def show(shallow, deep):
            rows = list(self.pilot._rows())
            members = {row: self.pilot.roster.members.get(name) for row, name in enumerate(rows)}
            steered = {row: each for row, each in members.items() if each and each.steered}
            reads = self._show(shallow, deep)
            if reads is not None:
                self.steps.append(
                    {
                        "requests": [rows[row] for row in steered],
                        "keys": [str(each.group.key) for each in steered.values()],
                        "beta": [each.beta for each in steered.values()],
                        "rows": list(steered),
                        "shallow": shallow.clone(),
                        "deep": deep.clone(),
                        "pushed": (reads.states if reads.pushed is None else reads.pushed).clone(),
                        "sampling": [each.sampling for each in steered.values()],
                    }
                )
            return reads

        self.pilot.show = show
        return self

    def __exit__(self, *unused):
        self.pilot.show = self._show


def steered_as_core(llm, events):
    """Replay the recorded steps through one core `Explorer` per group; return the worst error."""
    with Recorder(worker_of(llm)) as record:
        play(llm, events)
    explorers, worst, steered = {}, 0.0, 0
    for step in record.steps:
        for key in sorted(set(step["keys"])):
            mine = [place for place, other in enumerate(step["keys"]) if other == key]
            rows = [step["rows"][place] for place in mine]
            hidden = step["deep"].shape[1]
            explorer = explorers.setdefault(key, Explorer(ESamp(), 1, hidden, "cpu"))
            core = Step(
                shallow=step["shallow"][rows].float(),
                deep=step["deep"][rows].float(),
                samples=torch.arange(len(rows)),
                positions=torch.ones(len(rows), dtype=torch.long),
                unfinished=torch.ones(len(rows), dtype=torch.bool),
                layout=Layout.of([0] * len(rows), 1),
                beta=torch.tensor([step["beta"][place] for place in mine]),
            )
            expected = explorer.steer(core).states
            explorer.learn(core, core.samples)
            worst = max(worst, float((step["pushed"][rows].float() - expected).abs().max()))
            steered += len(rows)
    return {"worst": worst, "steered": steered, "groups": len(explorers)}


def break_things(llm, events, what):
    """Play events while one part of esamp fails in every third step."""
    pilot = worker_of(llm).esamp_pilot
    owner, name = {
        "steer": (pilot.explorer, "steer"),
        "learn": (pilot.explorer, "learn"),
        "roster": (pilot.roster, "update"),
        "keep": (pilot, "_keep"),
        "fuse": (pilot, "_fuse"),
    }[what]
    original, calls = getattr(owner, name), 0

    def broken(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls % 3 == 2:
            raise RuntimeError(f"broken on purpose: {what}")
        return original(*args, **kwargs)

    before = pilot.stats()
    setattr(owner, name, broken)
    try:
        results = play(llm, events)
    finally:
        delattr(owner, name)
    after = pilot.stats()
    pilot.roster.clear()
    return {
        "tokens": {name: result["tokens"] for name, result in results.items()},
        "fallback": after["rows_fallback"] - before["rows_fallback"],
        "steered": after["rows_steered"] - before["rows_steered"],
        "faults": after["faults"],
    }


def poison(llm, events, request):
    """Play events while the states of one request are NaN in some steps."""
    pilot = worker_of(llm).esamp_pilot
    original = pilot.show

    def show(shallow, deep):
        rows = list(pilot._rows())
        for row, name in enumerate(rows):
            if request in name:
                shallow[row] = torch.nan
        return original(shallow, deep)

    before = pilot.stats()
    pilot.show = show
    try:
        results = play(llm, events)
    finally:
        del pilot.show
    after = pilot.stats()
    return {
        "tokens": {name: result["tokens"] for name, result in results.items()},
        "nonfinite": after["rows_nonfinite"] - before["rows_nonfinite"],
        "steered": after["rows_steered"] - before["rows_steered"],
    }


def preemptions(llm):
    """Count preemptions from now on; the second call tells how many."""
    scheduler = llm.llm_engine.engine_core.engine_core.scheduler
    counter = getattr(scheduler, "esamp_test_preempted", None)
    if counter is not None:
        return len(counter)
    scheduler.esamp_test_preempted = []
    original = scheduler._preempt_request

    def count(request, *args, **kwargs):
        scheduler.esamp_test_preempted.append(request.request_id)
        return original(request, *args, **kwargs)

    scheduler._preempt_request = count
    return 0


def missing(llm, path):
    """What the self-test says when the runner has not what an adapter touches."""
    from esamp.backends.vllm.plugin import self_test
    from esamp.errors import ModelError

    runner = worker_of(llm).model_runner
    try:
        self_test(runner, runner.get_model(), (path,))
    except ModelError as error:
        return str(error)
    return None


def originals(llm):
    """Whether model, sampler and runner are what they are without us."""
    runner = worker_of(llm).model_runner
    model = runner.get_model()
    sampler = getattr(runner.sampler, "topk_topp_sampler", None)
    modules = [type(model).__module__, *([type(sampler).__module__] if sampler else [])]
    modules += [type(each).__module__ for each in getattr(runner.sampler, "logits_processors", [])]
    return {
        "ours": [name for name in modules if name.startswith("esamp") and "processor" not in name],
        "replaced": [
            name for name in ("execute_model", "sample_tokens", "sample") if name in vars(runner)
        ],
        "class": type(model).__name__
        if type(model).__mro__[1].__name__ != "Steered"
        else "Steered",
        "aux": list(getattr(model.model, "aux_hidden_state_layers", ())),
    }


def generate_all():
    """Run requests through a `VllmGenerator` on the demo model; for test_generator.py."""
    from vllm import SamplingParams

    from esamp import MeanDistiller, Vanilla
    from esamp.backends.transformers.load import demo_model
    from esamp.backends.vllm.generator import VllmGenerator
    from esamp.baselines import Cooling, Fire, GaussianNoise, OverRIDE, Sharpening
    from esamp.errors import EsampError
    from esamp.generation import Generator, Request, Sampling

    generator = VllmGenerator.load(
        demo_model(),
        dtype="float32",
        max_groups=2,
        max_model_len=256,
        # A step reads one prompt of 120 tokens for its three samples, and no second one.
        max_num_batched_tokens=256,
        kv_cache_memory_bytes=128 << 20,
    )
    long = tuple(f"{start} it was" + " so" * 110 for start in ("Once", "Then"))
    twice = ("The sea was", "Once upon a time", "The sea was")

    def request(prompts=("Once upon a time", "The sea was"), diagnostics=False, **sampling):
        settings = Sampling(**{"max_new_tokens": 12} | sampling)
        return Request(
            prompts=prompts, samples=3, sampling=settings, seed=1, diagnostics=diagnostics
        )

    def run(method, **how):
        result = generator.generate(request(**how), method)
        samples = [each for group in result.completions for each in group]
        return {
            "tokens": [[list(each.token_ids) for each in group] for group in result.completions],
            "reasons": sorted({each.finish_reason for each in samples}),
            "logprobs": [value for each in samples for value in each.logprobs],
            "stats": vars(result.stats),
        }

    def refusal(method, **how):
        try:
            generator.generate(request(**how), method)
        except EsampError as error:
            return str(error)
        return "nothing was refused"

    return {
        "is_generator": isinstance(generator, Generator),
        "esamp": run(ESamp(beta=1.0)),
        "mean": run(ESamp(beta=1.0, distiller=MeanDistiller())),
        "orthogonal": run(ESamp(beta=1.0, push="orthogonal")),
        "cooled": run(Cooling(within=ESamp(beta=1.0, push="orthogonal"), final=0.4, over=1)),
        "cooled plain": run(Cooling(final=0.4, over=1)),
        "cooled to 1": run(Cooling(final=1.0)),
        "at the cool temperature": run(Vanilla(), temperature=0.4),
        "again": run(ESamp(beta=1.0)),
        "twice": run(ESamp(beta=1.0), prompts=twice),
        "fire within twice": run(Fire(within=ESamp(beta=1.0)), prompts=twice),
        "greedy twice": run(Vanilla(), prompts=("The sea was",) * 2, temperature=0.0),
        "fire twice": run(Fire(), prompts=("The sea was",) * 2),
        "vanilla": run(Vanilla()),
        "beta 0": run(ESamp(beta=0.0)),
        "long": run(ESamp(beta=1.0), prompts=long),
        "read before": [
            each.num_cached_tokens
            for each in generator.llm.generate(
                long[:1] * 2, SamplingParams(max_tokens=1), use_tqdm=False
            )
        ],
        "greedy": run(ESamp(beta=1.0), temperature=0.0),
        "top_k_1": run(ESamp(beta=1.0), top_k=1),
        "early": run(ESamp(beta=1.0, learn_tokens=2)),
        "noise": run(GaussianNoise(esamp=ESamp(beta=1.0))),
        "sharpening": run(Sharpening(beta=1.0)),
        "esamp after controls": run(ESamp(beta=1.0)),
        "fire": run(Fire()),
        "fire again": run(Fire()),
        "fire within": run(Fire(within=ESamp(beta=1.0))),
        "fire of one token": run(Fire(), max_new_tokens=1),
        "greedy fire": run(Fire(), temperature=0.0),
        "refused": {
            "override": refusal(OverRIDE()),
            "cooling": refusal(Cooling(within=OverRIDE())),
            "fire": refusal(Fire(within=OverRIDE())),
            "layer": refusal(ESamp(layer=2)),
            "diagnostics": refusal(ESamp(), diagnostics=True),
            "long": refusal(ESamp(), max_new_tokens=300),
            "full": refusal(ESamp(), prompts=("one", "two", "three")),
        },
    }


def fused_logits(llm, events):
    """Play events; return the tokens, and the fused logits of each steered step by request."""
    worker = worker_of(llm)
    with Recorder(worker) as record:
        results = play(llm, events)
    model = record.model
    head = type(model).__mro__[2].compute_logits  # the model's own, behind our class and mixin
    steps = []
    for step in record.steps:
        logits = head(model, step["pushed"][step["rows"]]).tolist()
        steps.append(dict(zip(step["requests"], logits, strict=True)))
    return {"tokens": {name: each["tokens"] for name, each in results.items()}, "steps": steps}


def drawn_and_dense(llm, events):
    """Play events of one sample each; return each token's log-probability, reported and computed.

    Computed: by the definition, with two projections of the recorded states, for both readings of
    truncation, cut in vLLM's order. The first token is not steered and not recorded.
    """
    worker = worker_of(llm)
    with Recorder(worker) as record:
        results = play(llm, events)
    model = record.model
    head = type(model).__mro__[2].compute_logits  # the model's own, behind our class and mixin
    computed = {name: {"reference": [], "fused": []} for name in results}
    for step in record.steps:
        for row, request, beta, sampling in zip(
            step["rows"], step["requests"], step["beta"], step["sampling"], strict=True
        ):
            name = next(each for each in results if request.startswith(each))
            deep, pushed = (step[each][row : row + 1].float() for each in ("deep", "pushed"))
            predicted = deep - (pushed - deep) / beta
            reference, distilled = head(model, deep).float(), head(model, predicted).float()
            fused = fuse_logits(reference, distilled, beta) / sampling.temperature
            token = results[name]["tokens"][0][1 + len(computed[name]["fused"])]
            for reading, judged in (
                ("reference", reference / sampling.temperature),
                ("fused", fused),
            ):
                kept = top_p(top_k(min_p(judged, sampling.min_p), sampling.top_k), sampling.top_p)
                logits = fused.masked_fill(kept.isneginf(), -torch.inf)
                computed[name][reading].append(float(logits.log_softmax(-1)[0, token]))
    return {
        name: each | {"reported": results[name]["logprobs"][0][1:]}
        for name, each in computed.items()
    }
