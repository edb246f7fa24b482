"""Decoding with a method, as a callable for `model.generate(..., custom_generate=...)`.

`generate` prepares inputs, processors, stopping criteria and the cache; this file is what happens
then. Not here: forward passes and the batch (session.py), hooks (states.py), processors and
truncation (scores.py), the algorithm itself (esamp.explorer).
"""

import copy
import inspect
import warnings
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel
from transformers.generation.logits_process import LogitsProcessorList
from transformers.generation.stopping_criteria import StoppingCriteriaList, StopStringCriteria
from transformers.generation.streamers import BaseStreamer
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.integrations.fsdp import is_fsdp_managed_module

from esamp.backends.transformers.amateur import follow
from esamp.backends.transformers.output import ESampOutput, Recorder
from esamp.backends.transformers.rows import Betas, Rows, choose_seed, row_betas
from esamp.backends.transformers.scores import Few, Judge, find_temperature
from esamp.backends.transformers.session import Session, Shown
from esamp.backends.transformers.states import Taps, check_states, describe_head
from esamp.errors import InertWarning, ModelError, UsageError
from esamp.explorer import ESamp
from esamp.method import Call, Method, Steering
from esamp.sampling import Uniforms, draw, pick_best

OTHER_WAYS = (
    "prompt_lookup_num_tokens",
    "dola_layers",
    "penalty_alpha",
    "assistant_early_exit",
    "use_mtp",
    "force_words_ids",
    "constraints",
)
"""Settings of `generate` that choose another way of decoding."""

GENERATE_MODULE = "transformers.generation.utils"


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """A method in the shape that `generate(custom_generate=...)` takes.

    Example:
        `model.generate(**inputs, custom_generate=Decoding(method=ESamp(beta=0.25)), do_sample=True,
        num_return_sequences=16)`. The call also takes `esamp_seed` (without one, one number is
        drawn from torch's global generator) and `esamp_beta` (one number, or one per prompt).
    """

    method: Method = ESamp()
    diagnostics: bool = False
    """Also return what needs the reference logits: a second projection."""
    drop_finished: bool = True
    """Let finished rows leave the model's batch; the cache is then not returned."""
    share_prompts: bool = True
    """Run the model once on a prompt that several rows begin with, and copy what it cached."""

    def __call__(  # noqa: PLR0913  (the signature is the one that generate calls)
        self,
        model: PreTrainedModel,
        input_ids: Int[Tensor, "rows tokens"],
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        esamp_seed: int | None = None,
        esamp_beta: Betas = None,
        **model_kwargs: Any,
    ) -> ESampOutput | Int[Tensor, "rows longer"]:
        """Decode; see `generate` for what comes in and out.

        Raises:
            UsageError: A setting of `generate` that sampling with a method cannot honour.
            ModelError: The model's states cannot be read.
        """
        streamer: BaseStreamer | None = _given_to_generate("streamer")
        try:
            if _given_to_generate("assistant_model") is not None:
                raise UsageError(
                    "assistant_model was given: it asks for another way of decoding; esamp draws "
                    "one token at a time, so leave it out"
                )
            samples = generation_config.num_return_sequences or 1
            check_config(model, generation_config)
            parts = check_states(model, self.method.layer)
            rows = Rows.of(input_ids, samples, model_kwargs)
            head = describe_head(model)
            betas = row_betas(esamp_beta, len(rows.prompts), samples, head.device)
            call = Call(
                hidden=head.width,
                prompts=rows.prompts,
                groups=rows.groups(self.method.scope),
                seed=choose_seed(esamp_seed),
                device=head.device,
                temperature=find_temperature(logits_processor),
                head=parts.head,
                norm=parts.norm,
                follow=partial(follow, model, rows.prompts) if rows.tokens_are_all else None,
            )
            judge = Judge.of(
                self.method,
                logits_processor,
                generation_config,
                Few.of(logits_processor, parts.head_rows, rows=len(input_ids)),
                diagnostics=self.diagnostics,
                betas_given=esamp_beta is not None,
            )
            self._warn_if_inert(generation_config, esamp_beta)
            taps = Taps(model, self.method.layer)
            session = Session(
                model,
                taps,
                call,
                generation_config,
                model_kwargs,
                share_prompts=self.share_prompts,
            )
            loop = _Loop(
                session=session,
                judge=judge,
                steering=self.method.start(call),
                uniforms=rows.uniforms(call.seed, input_ids.device),
                criteria=stopping_criteria,
                config=generation_config,
                streamer=streamer,
                betas=betas,
                options=self,
            )
            with torch.no_grad(), taps.attached():
                return loop.run(input_ids)
        finally:
            # Whoever iterates over a streamer waits for this, also after an error.
            if streamer is not None:
                streamer.end()

    def _warn_if_inert(self, config: GenerationConfig, beta: Betas) -> None:
        if not isinstance(self.method, ESamp):
            return
        why = None
        if not config.do_sample:
            why = "do_sample=False, and greedy rows are never steered: pass do_sample=True"
        elif beta is None and self.method.inert:
            why = "beta is 0: pass ESamp(beta=0.25), or esamp_beta with the call"
        if why is not None:
            _warn_user(f"ESamp changes nothing here: {why}")


def generate(
    model: PreTrainedModel,
    inputs: Tensor | None = None,
    *,
    method: Method | None = None,
    streamer: BaseStreamer | None = None,
    seed: int | None = None,
    diagnostics: bool = False,
    **kwargs: Any,
) -> ESampOutput:
    """Call `model.generate` with a method, sampling and returning everything that esamp records.

    Args:
        model: Any causal language model of Transformers.
        inputs: Prompt ids, as for `model.generate`; or pass `**tokenizer(...)`.
        method: `ESamp()` if left out.
        streamer: As in Transformers.
        seed: Seed of this call's private streams of numbers.
        diagnostics: Also return what needs the reference logits.
        **kwargs: Anything that `model.generate` takes, such as num_return_sequences. Stop strings
            (with their tokenizer) work here only: `model.generate` hands a callable no tokenizer.

    Raises:
        UsageError: A setting that sampling with a method cannot honour.
        ModelError: The model's states cannot be read.
    """
    defaults = {"do_sample": True, "return_dict_in_generate": True}
    config: GenerationConfig | None = kwargs.get("generation_config")
    if config is None:
        kwargs = defaults | kwargs
    else:  # what it says counts for more than our defaults
        config = kwargs["generation_config"] = copy.deepcopy(config)
        for name, value in defaults.items():
            if getattr(config, name) is None:
                setattr(config, name, value)
        if kwargs.get("stop_strings") is None:
            kwargs["stop_strings"], config.stop_strings = config.stop_strings, None
    if kwargs.get("stop_strings") is not None and kwargs.get("tokenizer") is not None:
        # `generate` hands the tokenizer to no criterion when decoding is a callable.
        stop = StopStringCriteria(kwargs.pop("tokenizer"), kwargs.pop("stop_strings"))
        kwargs["stopping_criteria"] = StoppingCriteriaList(
            [*(kwargs.get("stopping_criteria") or []), stop]
        )
    output: ESampOutput = model.generate(
        inputs,
        custom_generate=Decoding(method=method or ESamp(), diagnostics=diagnostics),
        streamer=streamer,
        esamp_seed=seed,
        **kwargs,
    )
    return output


@dataclass
class _Loop:
    """The main path."""

    session: Session
    judge: Judge
    steering: Steering
    uniforms: Uniforms
    criteria: StoppingCriteriaList
    config: GenerationConfig
    streamer: BaseStreamer | None
    betas: Float[Tensor, " rows"] | None
    options: Decoding

    def run(
        self, input_ids: Int[Tensor, "rows tokens"]
    ) -> ESampOutput | Int[Tensor, "rows longer"]:
        """Decode until every row is finished: show, steer, draw, learn, advance."""
        session, rows = self.session, len(input_ids)
        unfinished = torch.ones(rows, dtype=torch.bool, device=input_ids.device)
        recorder = Recorder(rows, input_ids.device)
        extras = _Extras(self.config)
        pad = self.config._pad_token_tensor
        may_drop = self.options.drop_finished and not extras.of_all_rows
        while True:
            # show and steer: one pass, since the head belongs to the model's forward
            shown = session.show(input_ids, unfinished, self.betas, self.steering, self.judge.read)
            scored = self.judge.scores(session, self.steering, input_ids, shown)
            scores = scored.scores

            # draw: a row without a finite score cannot be sampled; it ends here
            uniforms = session.of_active(self.uniforms.next())
            drawn = draw(scores, uniforms) if self.config.do_sample else pick_best(scores)
            drawing = session.of_active(unfinished)
            sound = drawn.logprobs.isfinite()
            self.steering.learn(shown.step, drawn.tokens.to(shown.step.deep.device))

            recorder.record(drawn, shown.push, drawing & sound, session.active)
            if self.options.diagnostics:
                recorder.diagnose(scored, drawn.tokens, drawing & sound, session.active)
            extras.add(session, scores, shown)

            # advance: finished rows are padded, and told to stop by the criteria as ever
            broken = unfinished & ~session.of_all(sound.float(), 1.0).bool()
            recorder.nonfinite |= broken
            recorder.nonfinite_rows += broken.sum()
            unfinished = unfinished & ~broken
            tokens = session.of_all(drawn.tokens, 0)
            tokens = torch.where(unfinished, tokens, tokens.new_zeros(()) if pad is None else pad)
            recorder.lengths += unfinished
            input_ids = torch.cat([input_ids, tokens[:, None]], dim=-1)
            if self.streamer is not None:
                self.streamer.put(tokens.cpu())
            unfinished = unfinished & ~self.criteria(input_ids, extras.scores)
            session.advance()
            remaining = int(unfinished.sum())  # the loop's one wait for the device
            if remaining == 0:
                return self._output(input_ids, recorder, extras, may_drop)
            if may_drop:
                session.drop_finished(unfinished, remaining)

    def _output(
        self,
        input_ids: Int[Tensor, "rows tokens"],
        recorder: Recorder,
        extras: "_Extras",
        may_drop: bool,
    ) -> ESampOutput | Int[Tensor, "rows tokens"]:
        if not self.config.return_dict_in_generate:
            return input_ids
        cache: Any = None if may_drop else self.session.cache
        return ESampOutput(
            sequences=input_ids,
            scores=extras.scores,
            logits=extras.logits,
            attentions=extras.attentions,
            hidden_states=extras.hidden_states,
            **recorder.additions(),
            **{CACHE_FIELD: cache},
        )


CACHE_FIELD = next(
    # Transformers renamed it in 5.2x.
    each.name
    for each in fields(ESampOutput)
    if each.name in ("cache", "past_key_values")
)


class _Extras:
    """What `return_dict_in_generate` collects on request, with the names of Transformers."""

    def __init__(self, config: GenerationConfig) -> None:
        on = bool(config.return_dict_in_generate)
        self.scores: tuple[Tensor, ...] | None = () if on and config.output_scores else None
        self.logits: tuple[Tensor, ...] | None = () if on and config.output_logits else None
        self.attentions: tuple[Any, ...] | None = () if on and config.output_attentions else None
        hidden = on and config.output_hidden_states
        self.hidden_states: tuple[Any, ...] | None = () if hidden else None

    @property
    def of_all_rows(self) -> bool:
        """Whether something is collected that the model gives for its whole batch only."""
        return self.attentions is not None or self.hidden_states is not None

    def add(self, session: Session, scores: Float[Tensor, "active vocab"], shown: Shown) -> None:
        if self.scores is not None:
            self.scores += (session.of_all(scores, 0.0),)
        if self.logits is not None:
            plain = shown.logits if shown.reference is None else shown.reference
            self.logits += (session.of_all(plain, 0.0),)
        if self.attentions is not None:
            self.attentions += (session.outputs.attentions,)
        if self.hidden_states is not None:
            self.hidden_states += (session.outputs.hidden_states,)


def check_config(model: PreTrainedModel, config: GenerationConfig) -> None:
    """Refuse what a sampling loop cannot honour.

    Raises:
        UsageError: Beam search, or a draft model's or prompt's proposals.
        ModelError: An encoder-decoder model.
    """
    if model.config.is_encoder_decoder:
        raise ModelError(
            f"{type(model).__name__} is an encoder-decoder model: esamp decodes causal ones"
        )
    if config.num_beams and config.num_beams > 1:
        raise UsageError(
            f"num_beams is {config.num_beams}: esamp samples, so pass num_beams=1 and ask for "
            "several samples with num_return_sequences"
        )
    for name in OTHER_WAYS:
        value = getattr(config, name, None)
        if value:
            raise UsageError(
                f"{name} is {value}: it asks for another way of decoding; esamp draws one token "
                "at a time, so leave it out"
            )
    sharded = is_deepspeed_zero3_enabled() or is_fsdp_managed_module(model)
    if sharded and torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        raise UsageError(
            "the model is sharded over processes (FSDP or ZeRO-3), where all of them must "
            "decode in step: gather the model onto each process first"
        )


def _warn_user(text: str) -> None:
    """Warn at the line that called `generate`, outside esamp and what it builds on."""
    ours = ("esamp", "transformers", "torch", "jaxtyping", "beartype")
    frame, level = inspect.currentframe(), 0
    while frame is not None and str(frame.f_globals.get("__name__")).split(".")[0] in ours:
        frame, level = frame.f_back, level + 1
    warnings.warn(text, InertWarning, stacklevel=level + 1)


def _given_to_generate(name: str) -> Any:
    """Return what `generate` was called with: a streamer, a draft model.

    `generate` hands a callable no streamer, though it has already put the prompt into it; whoever
    reads from it would wait for ever. It is a local variable of our caller, so we take it there.
    """
    frame = inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__") != GENERATE_MODULE:
        frame = frame.f_back
    return None if frame is None else frame.f_locals.get(name)
