"""The keys `rope_theta` and `rope_scaling` of a layer: their check, and the base of rotary frequencies that they describe."""

from __future__ import annotations

import json
import math
from dataclasses import MISSING, fields
from typing import Any

from ..errors import ConfigError
from ..ops.rope import Base
from ..ops.rope_scaling import KINDS, Llama3, Scaling, Yarn
from .checks import known, number_between, one_of, require

EXAMPLE = {"type": "linear", "factor": 2.0}
OWN = {"linear": {"attention_factor"}, "llama3": {"attention_factor"}}  # fields of the class that are no options


def options(kind: str) -> list[str]:
    """The options of a kind of scaling, in order."""
    return [f.name for f in fields(KINDS[kind]) if f.name not in OWN.get(kind, ())]


def parse(given: Any) -> Scaling | None:
    """The scaling that `rope_scaling` describes; None for {}. Raises ConfigError."""
    require(
        isinstance(given, dict) and (not given or "type" in given),
        f"rope_scaling={given!r} must be {{}} for none, or an object with a type, for example {json.dumps(EXAMPLE)}",
    )
    if not given:
        return None
    kind, values = given["type"], {name: value for name, value in given.items() if name != "type"}
    one_of("rope_scaling type", kind, list(KINDS))
    known(values, set(options(kind)), f"rope_scaling of type {kind!r}")
    if kind == "yarn" and values.get("attention_factor") is None:  # arXiv 2309.00071, eq. 22
        factor: Any = values.get("factor")
        values["attention_factor"] = 0.1 * math.log(factor) + 1.0 if number_between(factor, 1, math.inf) else 1.0
    required = [f.name for f in fields(KINDS[kind]) if f.default is MISSING]
    lacking = [name for name in required if name not in values]
    require(not lacking, f"rope_scaling of type {kind!r} lacks {', '.join(lacking)}; its options are {options(kind)}")
    for name, value in values.items():
        if name == "truncate":
            require(isinstance(value, bool), f"rope_scaling truncate={value!r} must be true or false")
        elif name == "original_max_position_embeddings":
            whole = isinstance(value, int) and not isinstance(value, bool) and value > 0
            require(whole, f"rope_scaling {name}={value!r} must be a whole number of tokens of at least 1")
        else:
            require(number_between(value, 0, math.inf), f"rope_scaling {name}={value!r} must be a number above 0")
    made: Scaling = KINDS[kind](**values)
    if isinstance(made, Llama3):
        _ordered(made, "high_freq_factor", "low_freq_factor")
    if isinstance(made, Yarn):
        _ordered(made, "beta_fast", "beta_slow")
    return made


def _ordered(made: Scaling, large: str, small: str) -> None:
    high, low = getattr(made, large), getattr(made, small)
    require(high > low, f"rope_scaling {large}={high!r} must be above {small}={low!r}; the usual values are given in that order")


class RopeScaling:
    """The kind of the key `rope_scaling`."""

    type = "object"
    values = "`{}`; or `type` " + ", ".join(f"`{kind}` with {', '.join(f'`{x}`' for x in options(kind))}" for kind in KINDS)

    def check(self, key: str, value: Any) -> None:
        """See Kind."""
        parse(value)


def base(theta: float, scaling: dict[str, Any]) -> Base:
    """The base of a layer's rotary frequencies."""
    try:
        return Base(float(theta), parse(scaling))
    except OverflowError:
        raise ConfigError(f"rope_theta={theta!r} is too large; give a number such as 10000") from None
