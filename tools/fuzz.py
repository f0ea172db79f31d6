"""Malformed requests, made by schemathesis from the server's own schema, against a server of the shipped model: `make fuzz`.

Every route gets its share. A part of the requests names things that exist, so that their bodies are looked at. No answer may have
a status of 500 or more; a request that is still answered after some seconds is given up, as an impatient client does.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from served import serving

PATIENCE = 5  # seconds for one answer


@dataclass
class Found:
    """statuses: how many answers had each; 0: given up. wrong: the requests that were answered with 500 or more."""

    statuses: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    @property
    def requests(self) -> int:
        """All of them."""
        return sum(self.statuses.values())


def things(session: Any, url: str) -> dict[str, str]:
    """Something that exists, by the beginning of its path."""
    body = {"model": "demo", "input": "Of fuzz.", "max_output_tokens": 2}
    made: dict[str, Any] = {"/v1/responses": body, "/v1/conversations": {}, "/sessions": {}}
    return {path: session.post(url + path, json=given, timeout=60).json()["id"] for path, given in made.items()}


def fuzz(url: str, requests: int, seconds: float, seed: int = 0) -> Found:
    """At least as many requests, or as many as `seconds` allow; see the module."""
    import requests as http
    import schemathesis

    found, until, chance = Found(), time.monotonic() + seconds, random.Random(seed)
    with http.Session() as session:
        schema = schemathesis.openapi.from_dict(session.get(f"{url}/openapi.json", timeout=60).json())
        schema.config.update(base_url=url)
        operations = [got.ok() for got in schema.get_all_operations()]
        known = things(session, url)

        def send(case: Any) -> None:
            named = [id for path, id in known.items() if case.path.startswith(f"{path}/{{id}}")]
            if named and chance.random() < 0.8:
                case.path_parameters["id"] = named[0]
            if time.monotonic() < until and found.requests < requests:
                _send(case, session, found)

        while found.requests < requests and time.monotonic() < until:
            share = -(-(requests - found.requests) // len(operations))
            for operation in operations:
                _tried(operation, send, share, seed)
            operations, seed = [one for one in operations if one.body], seed + 1  # the others have few cases
    return found


def _tried(operation: Any, send: Callable[[Any], None], most: int, seed: int) -> None:
    """Malformed requests to a route; valid ones if nothing in it can be malformed."""
    import hypothesis
    from schemathesis import GenerationMode

    settings = hypothesis.settings(
        max_examples=most,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],
    )
    for mode in (GenerationMode.NEGATIVE, GenerationMode.POSITIVE):
        given = hypothesis.given(operation.as_strategy(generation_mode=mode))
        try:
            hypothesis.seed(seed)(settings(given(send)))()
            return
        except hypothesis.errors.Unsatisfiable:
            continue


def _send(case: Any, session: Any, found: Found) -> None:
    import requests as http

    try:
        got = case.call(session=session, timeout=PATIENCE)
    except (http.RequestException, UnicodeError, ValueError):
        found.statuses[0] += 1
        return
    found.statuses[got.status_code] += 1
    if got.status_code >= 500:
        found.wrong.append(f"{got.status_code}: {case.as_curl_command()[:600]}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=5000, help="of all routes together (default 5000)")
    parser.add_argument("--minutes", type=float, default=15, help="at most (default 15)")
    parser.add_argument("--seed", type=int, default=0, help="of the requests (default 0)")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="siltstone-") as folder, serving("demo", "--store", folder) as server:
        found = fuzz(server.url, asked.requests, asked.minutes * 60, asked.seed)
    print(f"{found.requests} requests, by status (0: given up): {dict(sorted(found.statuses.items()))}")
    print("\n".join(found.wrong) if found.wrong else "no answer had a status of 500 or more")
    return 1 if found.wrong or found.requests < asked.requests else 0


if __name__ == "__main__":
    sys.exit(main())
