"""Made-up lines of measures.jsonl and grades.jsonl, for tests of what reads them."""


def measure_line(arm, seed, item, **changes):
    """A line of four samples, ten tokens each, with one embedder E and the scorer own."""
    by_reader = {"vendi": 2.0, "similarity": 0.5, "cut": 0, "dynamics": {"8": 0.7}}
    measures = {
        "samples": 4,
        "tokens": 40,
        "finished": 3,
        "logprob": -60.0,
        "reference_logprob": None,
        "novelty": None,
        "distiller_error": [],
        "distinct": {
            "within": {"1": 0.8, "2": 0.9, "3": 1.0},
            "across": {"1": 0.6, "2": 0.7, "3": 0.8},
        },
        "self_bleu": 0.2,
        "nll": [80.0, 40],
    }
    changed = {**by_reader, **measures, **changes}
    score = changed["vendi"]
    if isinstance(score, float):
        changed["vendi"] = {"1": score, "2": score * 0.9, "inf": score * 0.8}
    for name in by_reader:
        changed[name] = {"E": changed[name]}
    changed["nll"] = {"own": changed["nll"]}
    return {"arm": arm, "seed": seed, "item": item, "measures": changed}


def grade_line(arm, seed, item, correct, answers=None):
    """A line of grades; answers are "right" and "wrong" unless given."""
    answers = answers or ["right" if each else "wrong" for each in correct]
    grades = [
        {"correct": each, "answer": answer, "note": None}
        for each, answer in zip(correct, answers, strict=True)
    ]
    return {"arm": arm, "seed": seed, "item": item, "grades": grades}
