"""Run folders as `esamp eval` writes them, made of numbers that follow simple laws."""

import json
import math
import random

from esamp.evals.config import RunConfig

TEMPERATURES = (0.6, 0.7, 0.8, 0.9, 1.1, 1.2)
VANILLA = ["vanilla", *(f"vanilla(temperature={each})" for each in TEMPERATURES)]
ESAMP = [
    f"esamp({', '.join(part for part in (beta, distiller) if part)})".replace("()", "")
    for distiller in ("", "distiller=mean", "distiller=mlp")
    for beta in ("", "beta=0.5", "beta=1")
]
OTHERS = ["min-p", "fire", "override", "sharpening", "noise", "frequency-penalty",
          "entropy-matched(arm=esamp)", "esamp(scope=sample)"]  # fmt: skip
ARMS = [*VANILLA, *ESAMP, *OTHERS]
EMBEDDERS = ("all-MiniLM-L6-v2", "all-mpnet-base-v2")
SCORERS = ("own", "Qwen2.5-Coder-0.5B")
KS = (1, 2, 4, 8, 16)
STORY = (
    "The lighthouse keeper counted the ships as they went by, one after the other, and wrote "
    "their names in a book that nobody would read. On the third night the lamp went out, and "
    "the sea answered with a light of its own. She took the boat, although the wind had turned, "
    "and rowed toward it until the oars touched something that was not water. "
)


def interval(value, width):
    return {"value": value, "low": value - width, "high": value + width}


def nothing():
    return {"value": None, "low": None, "high": None}


def price(arm):
    """Log-perplexity of an arm, and its diversity against vanilla's at that price."""
    place = ARMS.index(arm) if arm in ARMS else 3
    if arm.startswith("vanilla"):
        t = float(arm.partition("=")[2].rstrip(")") or 1)
        return 1.2 + 1.7 * (t - 0.6) / 0.4, 1.0
    strength = 1.0 if "beta=1" in arm else 0.5 if "beta=0.5" in arm else 0.25
    if arm.startswith("esamp"):
        kind = 0.5 if "mean" in arm else 0.25 if "mlp" in arm else 0.0
        return 2.5 - 0.5 * strength - kind, 0.98 + 0.16 * strength - 0.1 * kind * strength
    return 1.5 + 0.27 * (place % 8), 0.9 + 0.03 * (place % 7)


def summary_arm(arm, verifiable, steps):
    log_perplexity, lift = price(arm)
    vendi = (2.2 + 2.6 * log_perplexity) * lift
    steered = not arm.startswith(("vanilla", "min-p", "fire", "entropy"))
    success = 0.32 - 0.05 * log_perplexity + 0.05 * (lift - 1)
    pass_at_k = {
        str(k): interval(1 - (1 - success) ** (0.7 * k**0.7), 0.06 / math.sqrt(k)) for k in KS
    }
    dynamics = [
        {"position": p, **interval(0.75 - 0.02 * vendi - 0.05 * lift * math.log(p / 8), 0.02)}
        for p in (8, 16, 32, 64, 96, 128)
    ]
    return {
        "arm": arm,
        "temperature": float(arm.partition("temperature=")[2].rstrip(")") or 1),
        "pass_at_k": pass_at_k if verifiable else None,
        "maj_at_k": {str(k): interval(success, 0.05) for k in KS} if verifiable else None,
        "distinct_answers": interval(6.5, 0.7) if verifiable else None,
        "vendi": {
            e: interval(vendi * (0.85 + 0.15 * (e == EMBEDDERS[0])), 0.22) for e in EMBEDDERS
        },
        "vendi_orders": {
            e: {"2": interval(0.8 * vendi, 0.2), "inf": interval(0.4 * vendi, 0.1)}
            for e in EMBEDDERS
        },
        "similarity": {e: interval(0.75 - 0.02 * vendi, 0.02) for e in EMBEDDERS},
        "distinct_n": {
            where: {str(n): interval(0.9 + 0.03 * n, 0.004) for n in (1, 2, 3)}
            for where in ("within", "across")
        },
        "self_bleu": interval(0.21, 0.02),
        "perplexity": {
            s: {
                "value": math.exp(log_perplexity + (s != "own")),
                "low": math.exp(log_perplexity + (s != "own") - 0.06),
                "high": math.exp(log_perplexity + (s != "own") + 0.06),
            }
            for s in SCORERS
        },
        "entropy": interval(log_perplexity * 0.8, 0.05),
        "kl": interval(0.12, 0.02) if steered else None,
        "tokens_per_sample": interval(91.3, 3.1),
        "finished": interval(0.42, 0.05),
        "distiller_error": [0.42 + 0.6 / (1 + step / 6) for step in range(steps)]
        if steered
        else None,
        "novelty": [None] + [0.6 + 0.35 / (1 + step / 9) for step in range(steps)]
        if steered
        else None,
        "dynamics": {e: dynamics for e in EMBEDDERS},
    }


def summary(arms=ARMS, verifiable=False, private=False, steps=128, items=24):
    rows = [summary_arm(arm, verifiable, steps) for arm in arms]
    others = [arm for arm in arms if not arm.startswith("vanilla")]
    frontier, comparisons = [], []
    for arm in others:
        gain = price(arm)[1]
        outside = arm == "frequency-penalty"
        for embedder in EMBEDDERS:
            frontier += [
                {
                    "arm": arm,
                    "embedder": embedder,
                    "scorer": scorer,
                    "lift": None if outside else gain,
                    "low": None if outside else gain - 0.045,
                    "high": None if outside else gain + 0.05,
                    "length_differs": None if outside else arm == "esamp(beta=1)",
                    "repeats": None if outside else arm == "esamp(beta=0.5)",
                }
                for scorer in SCORERS
            ]
        for k in KS if verifiable else ():
            gain_at_k = 0.3 * (gain - 1.03)
            comparisons.append(
                {"a": arm, "b": "vanilla(temperature=0.8)", "measure": "pass_at_k", "k": k,
                 "difference": gain_at_k, "low": gain_at_k - 0.02, "high": gain_at_k + 0.02}
            )  # fmt: skip
    return {
        "task": "reasoning-gym:gcd" if verifiable else "open-ended",
        "model": "SmolLM2-135M-Instruct",
        "backend": "transformers",
        "samples": 16,
        "seeds": [0, 1, 2],
        "items": items,
        "private": private,
        "ks": list(KS),
        "arms": rows,
        "frontier": frontier,
        "comparisons": comparisons,
        "cannot_conclude": [
            "Perplexity is under the sampled model itself only: what it finds likely need not be "
            "good text to another reader.",
            "There are 64 intervals of 95 %: about 4 of them miss by chance alone.",
        ],
    }


def config(data, **changes):
    settings = {
        "task": data["task"],
        "items": [f"item-{number}" for number in range(data["items"])],
        "data": "0" * 64,
        "model": data["model"],
        "backend": data["backend"],
        "dtype": "float32",
        "chat_template": "auto",
        "chat_template_kwargs": {},
        "arms": [each["arm"] for each in data["arms"]],
        "samples": data["samples"],
        "seeds": data["seeds"],
        "max_new_tokens": 128,
        "prompts_at_once": 8,
        "embedders": list(EMBEDDERS),
        "scorers": list(SCORERS),
        "private": data["private"],
        "verifiable": bool(data["comparisons"]),
    }
    return RunConfig(**settings | changes).to_json()


def sample(text, novelty=True):
    words = [word + " " for word in text.split(" ")]
    words[-1] = words[-1][:-1]
    ends = [len("".join(words[: count + 1])) for count in range(len(words))]
    noise = random.Random(len(text))
    return {
        "text": text,
        "finish_reason": "stop",
        "ends": ends,
        "logprob": -1.5 * len(ends),
        "reference_logprob": None,
        "novelty": [None] + [0.3 + 0.6 * noise.random() for _ in ends[1:]] if novelty else None,
    }


def samples_lines(data, text=STORY, items=4):
    """The lines of samples.jsonl: seed by seed, arm by arm."""
    for seed in data["seeds"]:
        for place, arm in enumerate(data["arms"]):
            for item in range(items):
                texts = [text[(31 * place + 7 * number) % 40 :] * 2 for number in range(6)]
                yield {
                    "arm": arm["arm"],
                    "seed": seed,
                    "item": f"item-{item}",
                    "batch": 0,
                    "samples": [
                        sample(f"{each} [{seed}/{item}/{number}]", not arm["arm"].startswith("v"))
                        for number, each in enumerate(texts)
                    ],
                    "distiller_error": [],
                }


def write_run(folder, data=None, lines=None, **changes):
    """Write a run folder; None leaves a file out."""
    data = summary() if data is None else data
    folder.mkdir(parents=True)
    files = {
        "config.json": changes["config.json"] if "config.json" in changes else config(data),
        "environment.json": {"esamp": "0.1.0", "torch": "2.13.0", "processor": "x86_64"},
        "timings.json": {
            "arms": [
                {"arm": each["arm"], "tokens_per_second": 211.5 + place}
                for place, each in enumerate(data["arms"])
            ]
        },
        "summary.json": data,
    }
    for name, content in (files | changes).items():
        if content is not None:
            (folder / name).write_text(json.dumps(content))
    lines = samples_lines(data) if lines is None else lines
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "samples.jsonl").write_text(text)
    if data["comparisons"]:
        grades = [
            {"arm": arm["arm"], "seed": 0, "item": f"item-{item}", "grades": [
                {"correct": number % 2 == 0, "answer": str(7 + number), "note": None}
                for number in range(6)
            ]}
            for arm in data["arms"] for item in range(4)
        ]  # fmt: skip
        (folder / "grades.jsonl").write_text("".join(json.dumps(line) + "\n" for line in grades))
    return folder
