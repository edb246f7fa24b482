"""A `Generator` on vLLM: text in, completions out, with one engine for any number of arms."""

import dataclasses
import functools
import io
import itertools
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from esamp.backends.text import ChatTemplate, check_room, pieces, prompt_texts
from esamp.backends.vllm.engine import configure, of_engine, start_engine
from esamp.backends.vllm.fire import begin, check_fire, draw_firsts, join, unfinished
from esamp.backends.vllm.parameters import EngineSettings
from esamp.baselines import Fire
from esamp.errors import EsampError, ModelError, UsageError
from esamp.generation import (
    Completion,
    FinishReason,
    Generation,
    Progress,
    Request,
    Sampling,
    Stats,
)
from esamp.method import Method
from esamp.sampling import row_key

Prompt = tuple[int, ...]
"""A prompt's token ids."""


@dataclass(kw_only=True)
class VllmGenerator:
    """Decodes requests on one vLLM engine, which `load` has armed."""

    llm: Any
    """A `vllm.LLM` with `additional_config={"esamp": {…}}` and processed log-probabilities."""
    settings: EngineSettings = field(default_factory=EngineSettings)
    """What the engine is set to; changed for a method that needs something else.

    Its `max_groups`, as given, is the most that a request may have open.
    """
    chat_template: ChatTemplate = "auto"
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """What the template is told, such as `enable_thinking`."""

    def __post_init__(self) -> None:
        self._most_groups = self.settings.max_groups

    @classmethod
    def load(
        cls,
        name: str,
        *,
        dtype: str = "auto",
        chat_template: ChatTemplate = "auto",
        chat_template_kwargs: Mapping[str, Any] | None = None,
        max_groups: int = 256,
        **engine: Any,
    ) -> "VllmGenerator":
        """Start an engine with esamp armed.

        Args:
            name: Hub id or local path of a model.
            dtype: vLLM's `dtype`.
            chat_template: Whether prompts go through the model's chat template.
            chat_template_kwargs: What the template is told, such as `enable_thinking`.
            max_groups: The most groups open at once, and those the engine starts with; each prompt
                being decoded is one. Another distiller is made for the groups of a request only.
            engine: Further arguments of `vllm.LLM`; and `esamp`, further settings of the engine
                under the names of `EngineSettings`.

        Raises:
            UsageError: A setting of esamp cannot be used.
            MissingDependencyError: vLLM is not installed.
            ModelError: The engine does not start; vLLM's log says why.
        """
        settings = {"max_groups": max_groups} | engine.pop("esamp", {})
        parsed = EngineSettings.parse(settings)
        # What is drawn from must be what is reported: of rows fused after truncation vLLM's raw
        # log-probabilities are those of the reference.
        engine = {"logprobs_mode": "processed_logprobs", "disable_log_stats": True} | engine
        llm = start_engine(name, dtype, additional_config={"esamp": settings}, **engine)
        return cls(
            llm=llm,
            settings=parsed,
            chat_template=chat_template,
            chat_template_kwargs=chat_template_kwargs or {},
        )

    def generate(
        self, request: Request, method: Method, progress: Progress | None = None
    ) -> Generation:
        """Return `request.samples` completions of every prompt.

        Raises:
            UsageError: The request or the method cannot be served here.
            ModelError: Rows that were to be steered were not.
        """
        if request.diagnostics:
            raise UsageError(
                "diagnostics need the reference logits of every token: use --backend transformers"
            )
        fire = method if isinstance(method, Fire) and request.sampling.temperature > 0 else None
        method = method.within if isinstance(method, Fire) else method
        prompts = self._encode(request)
        if request.seed is None:
            request = dataclasses.replace(request, seed=int(torch.randint(0, 2**31, ())))
        # A prompt that comes twice is one with twice as many samples, which all differ.
        wanted = {prompt: n * request.samples for prompt, n in Counter(prompts).items()}
        extra = self._prepare(method, wanted)
        before = self._stats()
        start = time.perf_counter()
        if fire is None:
            groups = self._decode(request, wanted, extra, progress)
        else:
            groups = self._decode_hot(request, wanted, extra, fire, progress)
        seconds = time.perf_counter() - start
        after = self._stats()
        _check_steered(before, after)
        stats = Stats(
            tokens=sum(len(each.token_ids) for group in groups for each in group),
            seconds=seconds,
            distiller_error=self.llm.collective_rpc("esamp_errors", args=(before["steps"],))[0],
            nonfinite_rows=after["rows_nonfinite"] - before["rows_nonfinite"],
        )
        if request.sampling.temperature == 0:  # one was decoded, which stands for all of them
            groups = [group * n for group, n in zip(groups, wanted.values(), strict=True)]
        left = dict(zip(wanted, map(iter, groups), strict=True))
        completions = [list(itertools.islice(left[each], request.samples)) for each in prompts]
        return Generation(completions=completions, stats=stats)

    def _decode(
        self,
        request: Request,
        wanted: Mapping[Prompt, int],
        extra: dict[str, Any],
        progress: Progress | None,
    ) -> list[list[Completion]]:
        """Decode as many samples of each prompt as are wanted; one where all would be the same."""
        greedy = request.sampling.temperature == 0
        params = [
            # vLLM adds a sample's number to the seed. Seeds of other prompts are far away.
            self._params(
                request.sampling,
                n=1 if greedy else samples,
                seed=row_key(request.seed or 0, prompt, 0) % 2**31,
                extra_args=extra,
            )
            for prompt, samples in wanted.items()
        ]
        return self._run(list(wanted), params, progress)

    def _decode_hot(
        self,
        request: Request,
        wanted: Mapping[Prompt, int],
        extra: dict[str, Any],
        fire: Fire,
        progress: Progress | None,
    ) -> list[list[Completion]]:
        """Decode the first tokens hot, and then the rest of each sample."""
        prompts, ends = list(wanted), self._ends()
        groups = [
            self._first_tokens(request, prompt, wanted[prompt], likeliest, fire, ends)
            for prompt, likeliest in zip(prompts, self._likeliest(prompts, fire), strict=True)
        ]
        if request.sampling.max_new_tokens == 1:
            return groups
        sampling = dataclasses.replace(
            request.sampling, max_new_tokens=request.sampling.max_new_tokens - 1
        )
        rests = unfinished(prompts, groups, extra)
        params = [
            self._params(
                sampling,
                n=1,
                seed=row_key(request.seed or 0, prompts[rest.prompt], 1 + rest.sample) % 2**31,
                extra_args=rest.extra,
            )
            for rest in rests
        ]
        tokenizer = self.llm.get_tokenizer()
        outputs = self._run([rest.token_ids for rest in rests], params, progress)
        for rest, (output,) in zip(rests, outputs, strict=True):
            begun = groups[rest.prompt][rest.sample]
            tokens = [*begun.token_ids, *output.token_ids]
            text = tokenizer.decode(tokens, skip_special_tokens=True)
            groups[rest.prompt][rest.sample] = join(begun, output, text)
        return groups

    def _likeliest(self, prompts: Sequence[Prompt], fire: Fire) -> list[dict[int, float]]:
        """Return the likeliest first tokens of each prompt, with their log-probabilities."""
        from vllm import SamplingParams

        model = self.llm.llm_engine.model_config
        check_fire(fire, model.get_vocab_size() if model.max_logprobs < 0 else model.max_logprobs)
        params = SamplingParams(
            max_tokens=1, logprobs=fire.first_top_k, extra_args={"esamp_beta": 0.0}
        )
        inputs = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        outputs = self.llm.generate(inputs, params, use_tqdm=False)
        rows = [output.outputs[0].logprobs[0] for output in outputs]
        return [{token: each.logprob for token, each in row.items()} for row in rows]

    def _first_tokens(
        self,
        request: Request,
        prompt: Prompt,
        samples: int,
        likeliest: dict[int, float],
        fire: Fire,
        ends: set[int],
    ) -> list[Completion]:
        keys = [row_key(request.seed or 0, prompt, place) for place in range(samples)]
        drawn = draw_firsts(likeliest, fire, request.sampling, keys)
        tokenizer = self.llm.get_tokenizer()
        texts = [tokenizer.decode([token], skip_special_tokens=True) for token, _ in drawn]
        return begin(drawn, ends, texts)

    def _ends(self) -> set[int]:
        """Return the end tokens, for which vLLM reads a file."""
        named = self.llm.llm_engine.model_config.try_get_generation_config().get("eos_token_id")
        return {
            self.llm.get_tokenizer().eos_token_id,
            *(named if isinstance(named, list) else [named]),
        }

    def _run(
        self,
        prompts: Sequence[Sequence[int]],
        params: Sequence[Any],
        progress: Progress | None,
    ) -> list[list[Completion]]:
        if not prompts:
            return []
        outputs = self.llm.generate(
            [{"prompt_token_ids": list(prompt)} for prompt in prompts],
            params,
            use_tqdm=functools.partial(_bar(), progress) if progress else False,
        )
        return [[_completion(each) for each in output.outputs] for output in outputs]

    def pieces(self, token_ids: Sequence[int]) -> list[str]:
        """Return the text that each token adds, for showing tokens one by one."""
        return pieces(self.llm.get_tokenizer(), token_ids)

    def _prepare(self, method: Method, wanted: Mapping[Prompt, int]) -> dict[str, Any]:
        """Set the engine to a method and its groups; return what each request is to say."""
        if method.inert:
            return {"esamp_beta": 0.0}
        asked = EngineSettings.of(method)
        esamp, layer = asked.esamp, self.settings.esamp.layer
        if esamp.layer != layer:
            raise UsageError(
                f"layer is {esamp.layer}, and this engine shows layer {layer}: "
                f"start one with esamp={{'layer': {esamp.layer}}}"
            )
        engine = {
            name: getattr(asked, name) for name in ("control", "cooling_final", "cooling_over")
        }
        old = self.settings
        same = dataclasses.replace(
            old, esamp=dataclasses.replace(old.esamp, **of_engine(esamp)), **engine
        )
        # The paper's network takes megabytes a group: distillers that no request has are not made.
        groups = sum(wanted.values()) if method.scope == "sample" else len(wanted)
        now = dataclasses.replace(same, max_groups=min(groups, self._most_groups))
        if same != old or now.max_groups > old.max_groups:
            configure(self.llm, esamp, max_groups=now.max_groups, timing=now.timing, **engine)
            self.settings = now
        return {
            "esamp_beta": esamp.beta,
            "esamp_truncation": esamp.truncation,
            "esamp_scope": esamp.scope,
        }

    def _encode(self, request: Request) -> list[Prompt]:
        tokenizer = self.llm.get_tokenizer()
        texts, special = prompt_texts(
            tokenizer, request.prompts, self.chat_template, self.chat_template_kwargs
        )
        prompts = [tuple(tokenizer.encode(text, add_special_tokens=special)) for text in texts]
        context = self.llm.llm_engine.model_config.max_model_len
        check_room(max(map(len, prompts)), request.sampling.max_new_tokens, context)
        return prompts

    def _params(self, sampling: Sampling, **arguments: Any) -> Any:
        from vllm import SamplingParams

        return SamplingParams(logprobs=0, **arguments, **_sampling_arguments(sampling))

    def _stats(self) -> dict[str, Any]:
        stats: dict[str, Any] = self.llm.collective_rpc("esamp_stats")[0]
        if not stats["armed"]:
            raise EsampError(
                "esamp is inert in this engine: start it with additional_config={'esamp': {}}"
            )
        return stats


def _sampling_arguments(sampling: Sampling) -> dict[str, Any]:
    return {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "max_tokens": sampling.max_new_tokens,
    }


def _completion(output: Any) -> Completion:
    reason: FinishReason = "length" if output.finish_reason == "length" else "stop"
    return Completion(
        text=output.text,
        token_ids=list(output.token_ids),
        finish_reason=reason,
        logprobs=[
            row[token].logprob for row, token in zip(output.logprobs, output.token_ids, strict=True)
        ],
    )


def _check_steered(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Raise ModelError if rows found no group, or something failed: results would be mixed."""
    if after["faults"] != before["faults"]:
        raise ModelError(f"steering failed in some steps: {list(after['faults'])[-1]}")
    plain = after["rows_fallback"] - after["rows_nonfinite"]
    plain -= before["rows_fallback"] - before["rows_nonfinite"]
    if plain:
        raise ModelError(
            f"{plain} tokens were drawn plainly, since all groups were open: raise max_groups"
        )


def _bar() -> Any:
    """Return a class that vLLM takes for a progress bar, and that reports to `Progress`."""
    from tqdm import tqdm

    class Bar(tqdm):
        def __init__(self, progress: Progress, *args: Any, **kwargs: Any) -> None:
            self._progress = progress
            super().__init__(*args, **kwargs | {"file": io.StringIO()})

        def update(self, n: float | None = 1) -> bool | None:
            shown = super().update(n)
            self._progress(min(self.n / self.total, 1.0))
            return shown

    return Bar
