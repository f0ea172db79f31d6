"""A trainer on a token task. Step n of a seed always has the same streams, so that a resumed run is the uninterrupted one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import ConfigError
from ..eval.tasks.base import UNSCORED, TokenTask, random_numbers
from ..eval.watch import RoutingWatch, answers
from ..io.parse import is_count
from ..models.lm import LM
from ..models.stream_state import LMState
from ..ops.upcast import upcast
from .aids import Aids
from .recipe import Recipe

RECENT = 25  # steps whose mean cost ends a stage


@dataclass(frozen=True)
class Lesson:
    """A task, and how many rows of which lengths a step has. It ends when the mean cost of the last 25 steps is below `below`, or
    at the share `until` of the run."""

    task: TokenTask
    lengths: Sequence[int]
    batch: int
    below: float = 0.0
    until: float = 1.0


@dataclass
class Streams:
    """The place in the training data: steps so far, the number of the lesson, and costs of its last steps."""

    step: int = 0
    lesson: int = 0
    recent: list[float] = field(default_factory=list)

    def cursor(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"step": self.step, "lesson": self.lesson, "recent": self.recent}

    def check(self, cursor: Any) -> None:
        """ValueError unless `cursor` is a place. Early versions kept the step alone."""
        if not isinstance(cursor, dict) or not {"step"} <= cursor.keys() <= {"step", "lesson", "recent"}:
            raise ValueError("has no place in the training data")
        recent = cursor.get("recent", [])
        costs = isinstance(recent, list) and len(recent) <= RECENT and all(type(x) is float and math.isfinite(x) for x in recent)
        if not is_count(cursor["step"]) or not is_count(cursor.get("lesson", 0)) or not costs:
            raise ValueError("has no place in the training data")

    def seek(self, cursor: dict[str, Any]) -> None:
        """Go to a place."""
        self.step, self.lesson, self.recent = cursor["step"], cursor.get("lesson", 0), list(cursor.get("recent", []))


class TokenTrainer:
    """AdamW on the questions of a token task; streams begin from an empty state. `resume` saves and restores it.

    lengths   lengths of streams, one drawn a step
    first     lessons before the task itself
    watch     gets the places of the answers, for oracle routing
    """

    def __init__(
        self,
        model: LM,
        task: TokenTask,
        recipe: Recipe,
        lengths: Sequence[int],
        seed: int,
        watch: RoutingWatch | None = None,
        *,
        first: Sequence[Lesson] = (),
    ) -> None:
        self.watch = watch
        self.model, self.task, self.recipe, self.seed = model, task, recipe, seed
        self.lessons = [*first, Lesson(task, lengths, recipe.batch)]
        self.rows = Streams()
        self.state: LMState | None = None
        self.step = self.tokens = 0
        self.device = model.like.device
        self.aids = Aids(model, recipe, seed)
        self.parameters: dict[str, Tensor] = dict(model.named_parameters())
        kinds = [[p for p in self.parameters.values() if (p.dim() >= 2) == wide] for wide in (True, False)]
        groups = [{"params": p, "weight_decay": d} for p, d in zip(kinds, (recipe.decay, 0.0), strict=True)]
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.98), fused=True)

    def advance(self, fraction: float) -> float:
        """Makes one step, with the learning rate at `fraction` of the run; returns the mean cost of an answer in nats.

        Raises ConfigError if it is not a number.
        """
        lesson = self._lesson(fraction)
        by = random_numbers(lesson.task.name, "train", self.seed, self.rows.step)
        made = lesson.task.batch(lesson.batch, int(by.choice(lesson.lengths)), by)
        ids, targets = torch.from_numpy(made.ids).to(self.device), torch.from_numpy(made.targets).to(self.device)
        if self.watch is not None:
            self.watch.tell(answers(made))
        with self.aids.step(self.step, fraction, ids.shape[1]):
            hidden, _ = self.model.features(ids)
        if self.watch is not None:
            self.watch.tell(None)
            self.watch.found.clear()
        asked = targets != UNSCORED
        loss = F.cross_entropy(upcast(self.model.head(hidden[asked])), targets[asked])
        (loss + self.aids.loss() if self.recipe.routing_loss else loss).backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.recipe.clip)
        nats = float(loss.detach())
        if not math.isfinite(nats) or not math.isfinite(float(norm)):
            raise ConfigError(f"the loss is not a number at step {self.step + 1}; use a lower lr than {self.recipe.lr}")
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate(fraction)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step, self.rows.step, self.tokens = self.step + 1, self.rows.step + 1, self.tokens + ids.numel()
        if self.rows.lesson + 1 < len(self.lessons):
            self.rows.recent = [*self.rows.recent, nats][-RECENT:]
        return nats

    def _lesson(self, fraction: float) -> Lesson:
        """The lesson of the next step."""
        rows = self.rows
        rows.lesson = min(rows.lesson, len(self.lessons) - 1)
        while rows.lesson + 1 < len(self.lessons):
            lesson, known = self.lessons[rows.lesson], len(rows.recent) == RECENT
            if fraction < lesson.until and not (known and sum(rows.recent) / RECENT < lesson.below):
                break
            rows.lesson, rows.recent = rows.lesson + 1, []
        return self.lessons[rows.lesson]
