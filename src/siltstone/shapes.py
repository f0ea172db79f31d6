"""The letters that name axes: a tensor called `x_BTD` has rows, tokens and model width, in this order.

B rows of the caller's batch        R runs: stretches of one row's life inside one call (see schedule/packed.py)
T tokens of this call               M writes of this call, about T / rate
S segment chunks: the parts of a run during which one segment is online
L write slots of a segment chunk    Q query slots of a segment chunk, L * rate
G groups that a scan processes in parallel (rows, or rows times segment chunks)
N checkpoints                       W window, tokens                  E entries of a ring
H heads   K key width   V value width   F hidden width of a deep memory   U routing width   D model width
J key-value heads of exact attention; H / J query heads share one
"""
