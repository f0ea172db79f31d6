"""What becomes of states when two checkpoints become one: words of docs/family.md, and a row for each kind of state."""

from __future__ import annotations

HEAD = """`evict="merge"` makes two neighbouring checkpoints one where a budget is full, and logarithmic segments make two spans
one. With `start="carry"` both keep the newer state alone, for any rule: it was begun from the older one. With
`start="restart"` it depends on the rule, and with `evict="merge"` changes are added, not averaged: a matrix becomes
W_0 + (W - W_0) + (W' - W_0), W_0 being the rule's initial one. Routing keys are averaged over all writes of
both.

A sum grows with the number of segments in it. The matrices of `deep` and `titans` are held to their `limit`, as they
are where a batch begins; nothing holds the others, so that for long texts under a small budget `start="carry"`,
`evict="age"` or `evict="use"`, or logarithmic segments are the safer choice. How well merged checkpoints answer has not
been measured for any rule.

`cache="soup"` blends for one read, and changes no state: theta* = g theta + sum g_n theta_n. With `gate="softmax"`
that is a mean of weights, an MLP's included; with `gate="sigmoid"` (the default) g = 1 and they add up."""

# rules, what a checkpoint is, logarithmic with restart, evict="merge" with restart
KINDS: tuple[tuple[tuple[str, ...], str, str, str], ...] = (
    (("linear",), "the matrix, and its sum of keys", "S + S', exact", "S + S', exact: the state of both segments in one"),
    (("gated",), "the matrix", "e^f S + S', exact", "S + S': the older half does not fade by what the newer one forgot"),
    (
        ("swla",),
        "the matrix (its last key and value are not kept)",
        "a running state, exact",
        "S + S', as with `gated`",
    ),
    (
        ("delta", "gated_delta"),
        "the matrix",
        "a running state, exact",
        "S + S': a key written in both answers with both values; the newer one does not replace the older",
    ),
    (
        ("deep", "titans"),
        "W_in and W_out (base weights and momenta are not kept)",
        "a running state, exact",
        "the changes of each matrix add up on its first weights, up to `limit`: an MLP of its own, not what two answer together",
    ),
    (
        ("gru", "lstm", "slstm"),
        "the vector that is read (cells are not kept)",
        "a running state, exact",
        "h + h', out of the range that one vector has",
    ),
    (("min_gru", "min_lstm"), "the vector that is read", "e^f h + h', exact", "h + h', out of the range that one vector has"),
    (
        ("mlstm", "slots"),
        "the matrix and its scale; addresses and slots",
        "a running state, exact",
        "refused: scales and slots do not add up",
    ),
)
