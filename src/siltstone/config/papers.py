"""Names of papers for members that have other names here. They are not accepted, as several mean more than one key; the error
says what to write.
"""

from __future__ import annotations

MC = "arXiv 2602.24281"

# family -> name in lower case, without spaces, hyphens and underscores -> what to write, and what the name means
NAMES: dict[str, dict[str, tuple[str, str]]] = {
    "cache": {
        "rm": ("cache='residual'", f"residual memory, {MC}"),
        "residualmemory": ("cache='residual'", f"residual memory, {MC}"),
        "grm": ("cache='gated'", f"gated residual memory, {MC}"),
        "gatedresidual": ("cache='gated'", f"gated residual memory, {MC}"),
        "gatedresidualmemory": ("cache='gated'", f"gated residual memory, {MC}"),
        "memorysoup": ("cache='soup'", f"memory soup, {MC}"),
        "ms": ("cache='soup'", f"memory soup, {MC}"),
        "ssc": ("cache='sparse'", f"sparse selective caching, {MC}"),
        "sparseselectivecaching": ("cache='sparse'", f"sparse selective caching, {MC}"),
        "moe": ("cache='sparse'", f"sparse selective caching, {MC}"),
        "loglinear": ("cache='gated', segments='logarithmic'", f"logarithmic segments, {MC}"),
        "logarithmic": ("segments='logarithmic' beside a cache", f"logarithmic segments, {MC}"),
        "checkpoint": ("cache='gated'", "checkpoints of the memory"),
        "hola": ("cache='gated', cache_options={'exact': 64}", "exact pairs beside a state, arXiv 2607.02303"),
        "march": ("cache='sparse', router='anchor:4', start='carry'", "keys that anchors read from states, arXiv 2608.12435"),
        "nsa": ("cache='blocks'", "exact blocks that are chosen, arXiv 2502.11089"),
        "quest": ("cache='blocks'", "exact blocks that are chosen, arXiv 2406.10774"),
        "infllm": ("cache='blocks'", "exact blocks that are chosen, arXiv 2402.04617"),
        "kv": ("cache='none', pattern='a'", "keys and values of all tokens: an ordinary transformer"),
    },
    "memory": {
        "la": ("memory='linear'", "linear attention, arXiv 2006.16236"),
        "linearattention": ("memory='linear'", "linear attention, arXiv 2006.16236"),
        "deltanet": ("memory='delta'", "the delta rule, arXiv 2406.06484"),
        "deltarule": ("memory='delta'", "the delta rule, arXiv 2406.06484"),
        "gdn": ("memory='gated_delta'", "Gated DeltaNet, arXiv 2412.06464"),
        "gateddeltanet": ("memory='gated_delta'", "Gated DeltaNet, arXiv 2412.06464"),
        "gla": ("memory='gated', memory_options={'decay': 'channel'}", "gated linear attention, arXiv 2312.06635"),
        "gatedlinearattention": ("memory='gated', memory_options={'decay': 'channel'}", "arXiv 2312.06635"),
        "mamba": ("memory='gated'", "a decay of each head, as in Mamba-2, arXiv 2405.21060; Mamba-1 is not here"),
        "mamba2": ("memory='gated'", "a decay of each head, arXiv 2405.21060"),
        "retnet": ("memory='gated'", "a decay of each head; RetNet's fixed decay, arXiv 2307.08621, is learnt here"),
        "dla": ("memory='deep'", "deep linear attention, arXiv 2505.23735"),
        "deeplinearattention": ("memory='deep'", "deep linear attention, arXiv 2505.23735"),
        "slidingwindowlinearattention": ("memory='swla'", "sliding window linear attention"),
        "lmm": ("memory='titans'", "the neural long-term memory, arXiv 2501.00663"),
        "neuralmemory": ("memory='titans'", "the neural long-term memory, arXiv 2501.00663"),
        "ttt": ("memory='deep'", "a memory that learns by gradient descent"),
        "xlstm": ("memory='mlstm' or memory='slstm'", "xLSTM, arXiv 2405.04517"),
        "gsa": ("memory='slots'", "gated slot attention, arXiv 2409.07146"),
        "gatedslotattention": ("memory='slots'", "gated slot attention, arXiv 2409.07146"),
        "mingru": ("memory='min_gru'", "minGRU, arXiv 2410.01201"),
        "minlstm": ("memory='min_lstm'", "minLSTM, arXiv 2410.01201"),
    },
    "segments": {
        "constantsize": ("segments='constant'", f"segments of equal length, {MC}"),
        "fixed": ("segments='constant'", f"segments of equal length, {MC}"),
        "log": ("segments='logarithmic'", f"segments of powers of two, {MC}"),
        "loglinear": ("segments='logarithmic'", f"segments of powers of two, {MC}"),
        "fenwick": ("segments='logarithmic'", f"segments of powers of two, {MC}"),
    },
    "compress": {
        "none": ("compress='identity'", "every token is written"),
        "avg": ("compress='mean'", "the mean of a group of tokens"),
        "average": ("compress='mean'", "the mean of a group of tokens"),
        "meanpooling": ("compress='mean'", "the mean of a group of tokens"),
        "convolution": ("compress='conv'", "a convolution over a group of tokens"),
    },
}


def flat(name: str) -> str:
    """ "Gated Delta-Net" -> "gateddeltanet"."""
    return "".join(x for x in name.lower() if x.isalnum())


def advice(family: str, name: object, known: list[str]) -> str:
    """What to write instead of a paper's name, or of one of our names in other letters; "" if neither."""
    if not isinstance(name, str):
        return ""
    same = [x for x in known if flat(x) == flat(name)]
    if same:
        return f"write {family}={same[0]!r}: names are lower case"
    found = NAMES.get(family, {}).get(flat(name))
    return f"write {found[0]} ({found[1]})" if found else ""
