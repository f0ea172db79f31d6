"""`siltstone list`: the members of every family, each with a short description and its options."""

from __future__ import annotations

from typing import Annotated

import typer


def list(  # noqa: A001  # the command's name
    family: Annotated[
        str | None, typer.Argument(metavar="[compress|memory|cache]", help="List only this family.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> None:
    """List the compressors, update rules and caching policies that a layer can use.

    Their names are the values of the keys `compress`, `memory` and `cache`; their options are set in `compress_options`,
    `memory_options` and `cache_options`.
    """
    import json

    from siltstone.config.registry import FAMILIES, described
    from siltstone.core.plain import json_line
    from siltstone.errors import ConfigError

    if family is not None and family not in FAMILIES:
        raise ConfigError(f"family {family!r} is not known; choose one of {', '.join(FAMILIES)}")
    found = {name: described(name) for name in FAMILIES if family in (None, name)}
    if as_json:
        print(json_line(found))
        return
    for name, members in found.items():
        print(f"{name}:")
        for member in members:
            print(f"  {member['name']:<12} {member['about']}")
            if member["options"]:
                print(f"{'':<15}--set '{name}_options={json.dumps(member['options'])}'")
