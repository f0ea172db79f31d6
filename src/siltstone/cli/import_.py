"""`siltstone import`: a pretrained decoder becomes a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from siltstone.cli.arguments import path, text, unset


def import_(
    model: Annotated[
        Path,
        typer.Argument(metavar="MODEL", help="Folder of transformers, or GGUF file.", parser=path, show_default=False),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the run.", metavar="RUN", parser=path, show_default=False)],
    blocks: Annotated[
        bool,
        typer.Option(
            "--blocks", help="Attend to a window, and to blocks of earlier tokens (cache=blocks); --set changes its keys."
        ),
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="A key that differs from the decoder's; may be repeated.", metavar="KEY=VALUE", show_default=False
        ),
    ] = None,
    tokenizer: Annotated[
        str | None, unset("File or folder of another tokenizer. [default: the model's own]", text, "PATH")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model that is in --out.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> None:
    """Read a pretrained decoder (Llama, Mistral, Qwen2, Qwen3, SmolLM3, OLMo2) and write it as a run folder.

    The run has the decoder's logits, its tokenizer, special tokens and chat template, and weights in their stored dtype; GGUF
    files are dequantised. Every command takes it like a trained model. Needs the extra `hf`: pip install 'siltstone[hf]'.
    """
    import math
    import sys

    from siltstone.config.setting import parse_setting
    from siltstone.core.plain import json_line
    from siltstone.core.terminal import shown
    from siltstone.errors import CheckpointError
    from siltstone.hf import blocks as with_blocks
    from siltstone.hf import import_run
    from siltstone.models.checkpoint import WEIGHTS, opened

    if (out / WEIGHTS).exists() and not overwrite:
        raise CheckpointError(f"{out} has a model already; choose another --out, or give --overwrite to replace it")
    given = dict(map(parse_setting, settings or []))
    changes = with_blocks(**given) if blocks else given
    run = import_run(model, out, tokenizer, **changes)
    with opened(run / WEIGHTS) as file:
        entries = file.entries.values()
    parameters = sum(math.prod(entry.shape) for entry in entries)
    dtypes = sorted({str(entry.dtype).removeprefix("torch.") for entry in entries})
    if as_json:
        print(json_line({"run": str(run), "parameters": parameters, "dtypes": dtypes}))
    else:
        print(shown(f"{run}: {parameters:,} parameters in {' and '.join(dtypes)}", sys.stdout))
