"""What happens to states when two checkpoints are merged: texts of docs/family.md, and one row for each kind of state."""

from __future__ import annotations

HEAD = """Two settings merge checkpoints: `evict="merge"` merges two neighbouring checkpoints when a budget is full, and
logarithmic segments merge two spans. With `start="carry"` the merged checkpoint is the newer state, for every rule: the newer
state began from the older one. With `start="restart"` the result depends on the rule. With `evict="merge"` changes are added,
not averaged: a matrix becomes W_0 + (W - W_0) + (W' - W_0), where W_0 is the rule's initial matrix. Routing keys are averaged
over all writes of both. In the table S and h are the older state, S' and h' the newer one, f' the log decay of the newer span.
A span state is a state that begins with a span and receives all later writes.

A sum grows with the number of segments in it. The matrices of `deep` and `titans` are scaled down to their `limit`, as at the
beginning of an inner batch. The states of other rules have no limit. For long texts and a small budget, `start="carry"`,
`evict="age"`, `evict="use"` or logarithmic segments are safer. How well merged checkpoints answer was not measured for any rule.

`cache="soup"` blends weights for one read and changes no state: theta* = g theta + sum g_n theta_n. With `gate="softmax"`
theta* is a weighted mean, also of MLP weights. With `gate="sigmoid"` (the default) g = 1, and theta* is a sum."""

# rules, what a checkpoint is, logarithmic with restart, evict="merge" with restart
KINDS: tuple[tuple[tuple[str, ...], str, str, str], ...] = (
    (("linear",), "the matrix, and its sum of keys", "S + S', exact", "S + S', exact: the state of both segments in one"),
    (("gated",), "the matrix", "e^{f'} S + S', exact", "S + S': the decay of the newer segment is not applied to S"),
    (
        ("swla",),
        "the matrix (its last key and value are not kept)",
        "a span state, exact",
        "S + S', as with `gated`",
    ),
    (
        ("delta", "gated_delta"),
        "the matrix",
        "a span state, exact",
        "S + S': a key written in both segments returns both values; the newer value does not replace the older",
    ),
    (
        ("deep", "titans"),
        "W_in and W_out (base weights and momenta are not kept)",
        "a span state, exact",
        "the changes of each matrix are added to its initial weights, up to `limit`. This MLP is not the sum of both MLPs",
    ),
    (
        ("gru", "lstm", "slstm"),
        "the vector that is read (cells are not kept)",
        "a span state, exact",
        "h + h', outside the range of one vector",
    ),
    (("min_gru", "min_lstm"), "the vector that is read", "e^{f'} h + h', exact", "h + h', outside the range of one vector"),
    (
        ("mlstm", "slots"),
        "the matrix and its scale; addresses and slots",
        "a span state, exact",
        "raises ConfigError: scales and slots cannot be added",
    ),
)
