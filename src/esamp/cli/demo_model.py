"""`esamp demo-model`: write the demo model where every engine can load it."""

from pathlib import Path
from typing import Annotated

import typer

from esamp.cli.console import model_loading, talk


def demo_model(
    folder: Annotated[Path, typer.Argument(help="A new folder for the checkpoint.")],
) -> None:
    """Write SmolLM2-135M-Instruct as a safetensors checkpoint."""
    from esamp.backends.transformers.load import save_demo_model

    with model_loading():
        save_demo_model(folder)
    talk.print(f"wrote {folder}")
