"""A learning rate at which training diverges, jumps, or never gets beyond the trivial guess."""

from __future__ import annotations

from statistics import median

from alphabar.evaluation.doctor.evidence import Evidence
from alphabar.evaluation.doctor.finding import Finding
from alphabar.evaluation.doctor.history import slope

__all__ = ["rate_too_high"]

ROSE = 1.5
SPIKE = 3.0
MANY_SPIKES = 0.01
ENOUGH = 200
FALLING = -0.1  # d ln loss / d ln step of a run that learns
LEARNED_NOTHING = 0.95
# trained matrices have a root mean square of 0.01 to 1; from 10 on activations leave every range
ABSURD = 10.0


def rate_too_high(evidence: Evidence) -> Finding | None:
    """Look at the end of the run, steps not taken, losses, the error against the trivial guess, the size of weights."""
    found = [*_ended(evidence), *_loss(evidence), *_learned_nothing(evidence), *_grown(evidence)]
    if not found:
        return None
    rate = evidence.setting("optim", "lr")
    slower = f"{rate / 10:g}" if isinstance(rate, int | float) else "RATE"
    return Finding(
        "rate-too-high",
        "the learning rate is too high" + (f" ({rate:g})" if isinstance(rate, int | float) else ""),
        max(score for score, _ in found),
        (*(text for _, text in found), *_norms(evidence)),
        f"{evidence.again} optim.lr={slower}",
    )


def _ended(evidence: Evidence) -> list[tuple[float, str]]:
    history, found = evidence.history, []
    state = history.state or {}
    told = history.diverged or {}
    if str(told.get("action", "")).startswith("went back") and state.get("state") != "diverged":
        found.append((0.6, f"training diverged at step {told.get('step')} and went back at half the rate"))
    elif history.diverged is not None or state.get("state") == "diverged":
        where = told.get("step", state.get("step", history.step))
        found.append((0.97, f"training gave up at step {where}: loss or gradient was not finite"))
    skipped = len(history.skipped)
    if skipped:
        share = skipped / (skipped + len(history.losses))
        text = f"{skipped} steps were skipped because loss or gradient was not finite (last: {history.skipped[-1]:,})"
        found.append((0.92 if skipped >= 3 else 0.45 if share < 0.01 else 0.6, text))
    return found


def _loss(evidence: Evidence) -> list[tuple[float, str]]:
    """Medians of twenty stretches: noise of single steps does not move them."""
    windows, losses = evidence.history.windows(), evidence.history.losses
    if len(losses) < ENOUGH or any(w.loss <= 0 for w in windows):
        return []
    found = []
    best = min(windows, key=lambda w: w.loss)
    if windows[-1].loss > ROSE * best.loss:
        found.append(
            (0.9, f"the training loss rose from {best.loss:.3g} at step {best.step:,} to {windows[-1].loss:.3g}")
        )
    if evidence.setting("objective", "kind") == "bound":
        return found  # its terms differ by orders of magnitude between times, so that single losses jump in any run
    later = losses[len(losses) // 4 :]
    usual = median(p.loss for p in later)
    spikes = sum(p.loss > SPIKE * max(usual, windows[-1].loss) for p in later) / len(later)
    if spikes > MANY_SPIKES:
        found.append((0.7, f"{100 * spikes:.1f} % of the losses are more than {SPIKE:g} times the usual {usual:.3g}"))
    return found


def _learned_nothing(evidence: Evidence) -> list[tuple[float, str]]:
    """Raw weights no better than a guess from each pixel's mean and variance, and a loss that has stopped falling."""
    bands, guess = evidence.raw_held_out, evidence.guess
    if evidence.history.step < ENOUGH or not bands:
        return []
    ratios = [band.error.value / g for band, g in zip(bands, guess, strict=True) if g > 0]
    if not ratios or min(ratios) < LEARNED_NOTHING:
        return []
    windows = evidence.history.windows()
    falls = slope(windows[len(windows) // 2 :])
    if falls is not None and falls < FALLING:
        return []
    text = (
        f"after {evidence.history.step:,} steps the error in every band of noise is {min(ratios):.2g} times or more "
        "that of a guess that knows only each pixel's mean and variance, and the loss does not fall"
    )
    return [(0.85, text)]


def _grown(evidence: Evidence) -> list[tuple[float, str]]:
    """Weights of an absurd size, which only steps that were too long make."""
    facts = None if evidence.model is None else evidence.model.raw or evidence.model.ema
    if facts is None or facts.largest <= ABSURD:
        return []
    text = f"{facts.largest_name} has grown to a root mean square of {facts.largest:.3g} (usual: 0.01 to 1)"
    return [(0.85, text)]


def _norms(evidence: Evidence) -> tuple[str, ...]:
    norms, limit = evidence.history.norms, evidence.setting("optim", "clip_norm")
    if len(norms) < ENOUGH or not isinstance(limit, int | float):
        return ()
    late = norms[len(norms) // 2 :]
    clipped = sum(norm > limit for norm in late) / len(late)
    return (f"gradient norm in the second half: median {median(late):.3g}, clipped in {100 * clipped:.0f} % of steps",)
