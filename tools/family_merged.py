"""What happens to states when two checkpoints are merged: texts of docs/family.md, and one row for each kind of state."""

from __future__ import annotations

HEAD = """`evict="merge"` merges two neighbouring checkpoints when a budget is full, and logarithmic segments merge two spans.
With `start="carry"` both keep only the newer state, for any rule: it continues the older one. With
`start="restart"` the result depends on the rule, and with `evict="merge"` changes are added, not averaged: a matrix becomes
W_0 + (W - W_0) + (W' - W_0), W_0 being the rule's initial one. Routing keys are averaged over all writes of
both.

A sum grows with the number of segments in it. The matrices of `deep` and `titans` are limited in norm by `limit`, as at the
start of a batch; the others have no limit. So for long texts under a small budget `start="carry"`,
`evict="age"` or `evict="use"`, or logarithmic segments are the safer choice. How well merged checkpoints recall has not
been measured for any rule.

`cache="soup"` blends for one read, and changes no state: theta* = g theta + sum g_n theta_n. With `gate="softmax"`
that is a mean of weights, an MLP's included; with `gate="sigmoid"` (the default) g = 1 and they add up."""

# rules, what a checkpoint is, logarithmic with restart, evict="merge" with restart
KINDS: tuple[tuple[tuple[str, ...], str, str, str], ...] = (
    (("linear",), "the matrix, and its sum of keys", "S + S', exact", "S + S', exact: the state of both segments in one"),
    (("gated",), "the matrix", "e^f S + S', exact", "S + S': the older half is not decayed by the newer one's writes"),
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
        "S + S': a key written in both returns the sum of both values; the newer value does not replace the older",
    ),
    (
        ("deep", "titans"),
        "W_in and W_out (base weights and momenta are not kept)",
        "a span state, exact",
        "the changes of each matrix add up on its initial weights, up to `limit`: a different MLP, not the sum of both outputs",
    ),
    (
        ("gru", "lstm", "slstm"),
        "the vector h (cells are not kept)",
        "a span state, exact",
        "h + h', outside the range of one vector",
    ),
    (("min_gru", "min_lstm"), "the vector h", "e^f h + h', exact", "h + h', outside the range of one vector"),
    (
        ("mlstm", "slots"),
        "the matrix and its scale; addresses and slots",
        "a span state, exact",
        "raises ConfigError: scales and slots cannot be added",
    ),
)
