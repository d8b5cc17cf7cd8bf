"""The verdict that training prints at each preview: one sentence on whether it learns, overfits or diverges."""

from __future__ import annotations

import math
from statistics import median

from torch import Tensor

from alphabar.evaluation.doctor.causes.colour_drift import SURE, VISIBLE, drifts
from alphabar.evaluation.doctor.history import History, Point
from alphabar.evaluation.doctor.pixel_facts import PixelFacts

__all__ = ["Watch"]

ROSE = 1.5  # of the training loss over its best stretch: diverging, as in causes/rate_too_high.py
STUCK = 0.8  # of the loss of the first steps, which is that of a network that says nothing
ENOUGH = 200
FIRST = 10
HELD_OUT_ROSE = 1.05  # the held-out loss has an error below 1 % and the same noise each time
GAP = 1.5
FALLING = 0.02  # between two previews
REMEDY = "more images or fewer steps"


class Watch:
    """What the last previews and the steps between them say.

    ``history`` is that of the run so far, taken to have had a preview ``every`` so many steps. The state is one number
    per preview, whatever the length of the run.
    """

    def __init__(self, real: PixelFacts, history: History, *, every: int) -> None:
        self.real = real
        self.first: list[float] = []
        self.stretch: list[float] = []
        self.skipped = 0
        self.trained: list[Point] = []
        self.held_out: list[Point] = []
        previews = _previews(history, every)
        for p in history.losses:
            while previews and p.step > previews[0][0]:
                self._close(*previews.pop(0))
            self.see(p.loss)
        for preview in previews:
            self._close(*preview)

    def see(self, loss: float) -> None:
        """The loss of one more step; one that is not finite was skipped."""
        if not math.isfinite(loss):
            self.skipped += 1
            return
        if len(self.first) < FIRST:
            self.first.append(loss)
        self.stretch.append(loss)

    def verdict(self, step: int, held_out: float | None, preview: Tensor) -> str:
        """The sentence at ``step``; held-out loss and ``preview``, uint8 [N, C, H, W], are of the averaged weights."""
        skipped, self.skipped = self.skipped, 0
        self._close(step, held_out)
        return f"verdict: {self._trouble(step, skipped) or self._progress()}; {self._colours(preview)}"

    def _close(self, step: int, held_out: float | None) -> None:
        """End the stretch of steps since the last preview."""
        if self.stretch:
            self.trained.append(Point(step, median(self.stretch)))
            self.stretch = []
        if held_out is not None:
            self.held_out.append(Point(step, held_out))

    def _trouble(self, step: int, skipped: int) -> str | None:
        if skipped:
            return f"diverging: {skipped} steps since the last preview were not finite; lower optim.lr"
        if not self.trained:
            return None
        best, now = min(p.loss for p in self.trained), self.trained[-1].loss
        if best > 0 and now > ROSE * best:
            return f"diverging: the training loss rose from {best:.3g} to {now:.3g}; lower optim.lr"
        # the least of the first losses: a rate that is far too high spoils all but the very first
        if step >= ENOUGH and self.first and now > STUCK * min(self.first) > 0:
            return f"not learning: the loss is {now:.3g} and began at {min(self.first):.3g}; lower optim.lr"
        return self._overfitting(now)

    def _overfitting(self, trained: float) -> str | None:
        if len(self.held_out) < 3 or self.held_out[-1].loss <= 0:
            return None
        best, now = min(self.held_out, key=lambda p: p.loss), self.held_out[-1]
        if now.loss > HELD_OUT_ROSE * best.loss and trained < now.loss:
            rise = 100 * (now.loss / best.loss - 1)
            return f"overfitting: held-out loss {rise:.0f} % above its best (step {best.step:,}); {REMEDY}"
        settled = now.loss > (1 - FALLING) * self.held_out[-2].loss
        if settled and trained > 0 and now.loss > GAP * trained:
            return f"overfitting: held-out loss {now.loss / trained:.1f} times the training loss; {REMEDY}"
        return None

    def _progress(self) -> str:
        curve, name = (self.held_out, "held-out") if self.held_out else (self.trained, "training")
        if len(curve) < 2 or curve[-2].loss <= 0:
            return "learning; the next preview tells how fast"
        before, now = curve[-2:]
        steps = max(1, now.step - before.step)
        fall = 1 - now.loss / before.loss
        if fall > FALLING:
            rate = 100 * (1 - (1 - fall) ** (1000 / steps)) if steps >= 1000 else 100 * fall
            per = "1,000 steps" if steps >= 1000 else f"{steps:,} steps"
            return f"learning; {name} loss still falls {rate:.0f} % per {per}"
        return f"levelled off; {name} loss moved {-100 * fall:+.1f} % in {steps:,} steps"

    def _colours(self, preview: Tensor) -> str:
        facts = PixelFacts.of(preview)
        off = drifts(facts, self.real)
        name, gap, errors = max(off, key=lambda one: abs(one[2]))
        if abs(errors) > SURE and abs(gap) > VISIBLE:
            return f"samples' {name} off by {gap:+.0f} of 255 ({abs(errors):.0f} standard errors)"
        if math.isinf(errors):  # of channels without any spread
            return f"samples' colours within {VISIBLE:.0f} of 255"
        return f"samples' colours within {max(1, math.ceil(abs(errors))):.0f} standard errors"


def _previews(history: History, every: int) -> list[tuple[int, float | None]]:
    """(step, held-out loss) of every preview so far; without held-out images only their interval tells the steps."""
    unmeasured = dict.fromkeys(range(every, history.step + 1, every))
    return sorted((unmeasured | {p.step: p.loss for p in history.held_out}).items())
