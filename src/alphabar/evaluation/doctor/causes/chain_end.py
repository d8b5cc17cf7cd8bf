"""A forward process that does not end in noise, or has too few steps for Gaussian hops."""

from __future__ import annotations

from alphabar.evaluation.doctor.evidence import Evidence
from alphabar.evaluation.doctor.finding import Finding

__all__ = ["chain_end"]

# from here x_T keeps 3 % of the image; sampling starts without it (the schedules warn at the same value)
SIGNAL_LEFT = 1e-3
MUCH_LEFT = 1e-2
# ancestral sampling of CIFAR-10 has FID 41 in 10 steps, 18 in 20, 8 in 50, 3 in 1000 (Song et al. 2021, Table 1)
FEW = 20
SOME = 50


def chain_end(evidence: Evidence) -> Finding | None:
    """Look at ᾱ_T and T of the model's schedule."""
    schedule = evidence.model.schedule if evidence.model is not None else None
    if schedule is None:
        return None
    last, T = float(schedule.alpha_bar[-1]), schedule.T
    kind = evidence.model.description.get("schedule", {}).get("kind", "") if evidence.model is not None else ""
    if last > SIGNAL_LEFT:
        return Finding(
            "chain-end",
            "the chain does not end in noise: sampling starts from images that training never saw",
            0.96 if last > MUCH_LEFT else 0.75,
            (
                f"alpha_bar_T = {last:.3g} after T = {T} steps ({kind}); it should be below {SIGNAL_LEFT:g}",
                f"x_T still holds {100 * last**0.5:.0f} % of the image, sampling begins without it",
            ),
            f"raise T (or leave beta_1 and beta_T out: they are then scaled to T): {evidence.again} schedule.T=1000",
        )
    if T < SOME:
        return Finding(
            "chain-end",
            f"the chain has too few steps: T = {T}",
            0.9 if T < FEW else 0.55,
            (
                f"one hop adds up to {100 * float(schedule.betas.max()):.0f} % of the variance, more than a "
                "Gaussian step can undo; FID of CIFAR-10 is 41 in 10 steps, 18 in 20, 3 in 1000",
            ),
            f"{evidence.again} schedule.T=1000",
        )
    return None
