"""What the doctor says: a cause in plain words, how sure it is, the numbers behind it, and what to do."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SICK", "Finding"]

SICK = 0.5


@dataclass(frozen=True)
class Finding:
    """One cause that the evidence speaks for.

    Attributes:
        cause: its name in ``CAUSES``.
        says: the cause in plain words, a sentence without a full stop.
        score: 0 … 1, how surely it explains bad samples. A fact that alone explains them is above 0.9, a measured one
            above 0.7; symptoms of other causes stay below these. Under ``SICK`` it is a remark.
        evidence: sentences with numbers.
        advice: a command or a setting.
    """

    cause: str
    says: str
    score: float
    evidence: tuple[str, ...]
    advice: str

    @property
    def sick(self) -> bool:
        """Whether the score is at least ``SICK``."""
        return self.score >= SICK
