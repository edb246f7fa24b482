"""Draw docs/demo.svg: what `make demo` shows, from the same code.

python docs/picture.py
"""

import io
from pathlib import Path

from rich.console import Console

from esamp import ESamp, Vanilla
from esamp.backends.transformers.generator import TransformersGenerator
from esamp.cli.generate import measure
from esamp.cli.view import show
from esamp.generation import Request, Sampling

PROMPT = "Write a short story about a lighthouse."

generator = TransformersGenerator.load()
request = Request(prompts=[PROMPT], samples=8, sampling=Sampling(max_new_tokens=48), seed=1)
runs = {method.name: generator.generate(request, method) for method in (ESamp(), Vanilla())}
console = Console(record=True, width=110, file=io.StringIO())
show(runs, generator, measure(runs), console)
title = f'esamp generate "{PROMPT}" --max-new-tokens 48 --seed 1 --compare'
Path(__file__).with_name("demo.svg").write_text(console.export_svg(title=title))
