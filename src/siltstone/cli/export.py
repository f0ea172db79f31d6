"""`siltstone export`: a plain decoder is written in the form of another library."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from siltstone.cli.arguments import RunFolder, path


def export(
    run: RunFolder,
    hf: Annotated[
        Path,
        typer.Option(
            help="New folder for the decoder in the form of transformers.", metavar="DIR", parser=path, show_default=False
        ),
    ],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model that is in DIR.")] = False,
) -> None:
    """Write the decoder of a run as a folder that transformers loads.

    A decoder from `siltstone import` is written back bit for bit in its stored dtypes, with its configuration and tokenizer; one
    from a GGUF file as its dequantised weights. A model with memory layers is none that transformers has.
    """
    import sys

    from siltstone.core.terminal import shown
    from siltstone.demo import run_folder
    from siltstone.hf import export as write

    print(shown(str(write(run_folder(run), hf, overwrite)), sys.stdout))
