"""Sentences in which facts are told and asked, and lines of logs. Those of training and of test share no three words in a row."""

from __future__ import annotations

# task family -> split -> kind -> template
NEEDLES = {
    "train": {
        "fact": "Whoever asks for {} shall hear the number {}.",
        "question": "\nSomebody asks for {}. What does he hear? For {} he hears",
    },
    "test": {
        "fact": "The secret code of {} is {}.",
        "question": "\nWhich secret code does the text give for {}? The secret code of {} is",
    },
}
TOLD = {
    "train": {"tell": "People call me {}. ", "ask": "\nPeople call me", "owns": "{} keeps a {}. ", "owner": "\n{} keeps a"},
    "test": {"tell": "My name is {}. ", "ask": "\nMy name is", "owns": "{} owns the {}. ", "owner": "\n{} owns the"},
}
USUAL = {
    "train": (
        "notice  mail queued for user{n}, size {m}k",
        "notice  backup slice {w} copied {n} files",
        "trace   scheduler tick {m}, {w} tasks ready",
        "notice  sensor {w} temperature {m} C",
        "trace   session {n} renewed",
    ),
    "test": (
        "INFO  http GET /items/{n} 200 {m}ms",
        "INFO  http POST /orders 201 {m}ms",
        "INFO  cache hit key=item:{n}",
        "DEBUG worker-{w} heartbeat ok",
        "INFO  db query took {m}ms rows={w}",
    ),
}
STRANGE = {
    "train": (
        "alarm   fan {w} stopped",
        "alarm   wrong password for user{n} from host{m}",
        "alarm   clock went back by {m} s",
    ),
    "test": (
        "ERROR disk /dev/sd{w} sector {n} unreadable",
        "WARN  login root failed from 10.0.{w}.{n}",
        "FATAL out of memory in worker-{w}, pid {n}",
        "ERROR certificate expired {m} days ago",
    ),
}
