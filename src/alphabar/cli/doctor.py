"""``alphabar doctor``: which of the known causes spoiled a run, with the evidence and what to do."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alphabar.base.choice import from_table
from alphabar.base.errors import CheckpointError, ConfigError, printable
from alphabar.cli.console import say
from alphabar.cli.reading import open_watched, reading_of
from alphabar.cli.sample import prepare
from alphabar.data.batch import Images
from alphabar.evaluation.doctor import SICK, Evidence, Finding, examine, gather
from alphabar.model.denoiser import Denoiser
from alphabar.process.chain import Chain
from alphabar.runtime.config import read_toml
from alphabar.samplers import Sampler
from alphabar.training.ema import EmaConfig
from alphabar.weights import checkpoint

__all__ = ["run"]


def run(path: Path, *, data: str | None, as_json: bool) -> None:
    """The command."""
    folder = _run_folder(path)
    settings = read_toml(folder / "config.toml") if (folder / "config.toml").exists() else {}
    section = settings.get("data", {})

    def open_images(source: str) -> Images:
        return open_watched(source, reading_of(section if isinstance(section, dict) else {}))

    reference = None if data is None else open_images(data)
    evidence = gather(
        folder,
        settings,
        initial_share=lambda updates: _initial_share(settings, updates),
        prepare=_prepare,
        open_images=open_images,
        reference=reference,
        note=(lambda text: None) if as_json else lambda text: say(f"looking      {text}"),
    )
    findings = examine(evidence)
    if as_json:
        print(json.dumps(_table(evidence, findings), allow_nan=False))
        return
    for line in _lines(evidence, findings):
        say(line)


def _run_folder(path: Path) -> Path:
    """The run that ``path`` is or belongs to; a saved model stands for itself.

    Raises:
        CheckpointError: if there is nothing to look at.
    """
    if not path.is_dir():
        what = "is a file" if path.exists() else "no such folder"
        raise CheckpointError(f"{printable(path)}: {what}; give a run folder, one of its steps, or a saved model")
    folder = path.parent if checkpoint.STEP.fullmatch(path.resolve().name) else path
    known = ("config.toml", "metrics.jsonl", "model.json", "run.json")
    if not any((folder / name).exists() for name in known) and not checkpoint.steps(folder):
        raise CheckpointError(f"{printable(path)}: is no run of alphabar; give the folder that train printed")
    return folder


def _initial_share(settings: Mapping[str, Any], updates: int) -> float | None:
    table, batch = settings.get("ema"), settings.get("run", {}).get("batch")
    if not isinstance(table, dict) or not isinstance(batch, int):
        return None
    try:
        return from_table(EmaConfig, table, "ema").initial_share(updates, batch)
    except ConfigError:
        return None


def _prepare(denoiser: Denoiser, steps: int) -> tuple[Sampler, Chain, Denoiser]:
    """The sampler that loses least in few steps: ancestral ones of 50 have up to 6 % less contrast than of 1000."""
    return prepare(denoiser, "dpmpp_2m_sde", min(steps, denoiser.schedule.T), quiet=True)


def _table(evidence: Evidence, findings: Sequence[Finding]) -> dict[str, Any]:
    return {
        "run": str(evidence.run),
        "verdict": _verdict(evidence, findings),
        "threshold": SICK,
        "findings": [
            {
                "cause": f.cause,
                "says": f.says,
                "score": round(f.score, 3),
                "evidence": list(f.evidence),
                "advice": f.advice,
            }
            for f in findings
        ],
        "seen": _seen(evidence),
        "unseen": list(evidence.unseen),
    }


def _verdict(evidence: Evidence, findings: Sequence[Finding]) -> str:
    """The likeliest cause; ``healthy`` only where there were weights to look at."""
    if findings and findings[0].sick:
        return findings[0].cause
    return "unknown" if evidence.model is None else "healthy"


def _lines(evidence: Evidence, findings: Sequence[Finding]) -> list[str]:
    state = (evidence.history.state or {}).get("state", "no state recorded")
    lines = [f"run          {printable(evidence.run)}, {_steps(evidence)} ({state})"]
    sick = [finding for finding in findings if finding.sick]
    if sick:
        lines += [f"verdict      {sick[0].says}", ""]
        for number, finding in enumerate(sick):
            lines += _about(finding, first=number == 0)
    else:
        why = {"healthy": "no known cause of bad samples found", "unknown": "no checkpoint to look at"}
        verdict = _verdict(evidence, findings)
        lines += [f"verdict      {verdict}: {why[verdict]}", ""]
    lines += [f"remark       {finding.says}: {finding.evidence[0]}" for finding in findings if not finding.sick]
    lines.append(f"looked at    {'; '.join(_seen(evidence)) or 'nothing'}")
    return lines + [f"not seen     {reason}" for reason in evidence.unseen]


def _steps(evidence: Evidence) -> str:
    step = evidence.model.step if evidence.model is not None else None
    planned = evidence.setting("run", "steps")
    if step is None and not planned:
        return "a saved model"
    return f"step {step or evidence.history.step:,}" + (f" of {planned:,}" if isinstance(planned, int) else "")


def _about(finding: Finding, *, first: bool) -> list[str]:
    """The likeliest cause in full; of the others one line of evidence."""
    if not first:
        return [f"also         {finding.says} ({finding.score:.2f}): {finding.evidence[0]}"]
    head = [f"cause        {finding.cause}, score {finding.score:.2f} of 1"]
    return [*head, *(f"evidence     {text}" for text in finding.evidence), f"what to do   {finding.advice}", ""]


def _seen(evidence: Evidence) -> list[str]:
    found = []
    history, data, fresh = evidence.history, evidence.data, evidence.fresh
    if history.losses:
        found.append(f"{len(history.losses):,} losses, {len(history.held_out)} held-out losses")
    if evidence.model is not None:
        found.append("weights")
    if evidence.raw_held_out or evidence.ema_train:
        found.append(f"errors in {len(evidence.raw_held_out or evidence.ema_train)} bands of noise")
    if fresh is not None:
        found.append(f"{fresh.facts.n} fresh samples ({fresh.steps} steps)")
    if evidence.folders:
        found.append(f"{len(evidence.folders)} sample folder(s)")
    if data is not None:
        found.append(f"{len(data.train):,} training and {len(data.held_out):,} held-out images")
    if evidence.reference is not None:
        found.append(f"{evidence.reference.n:,} images of {printable(evidence.reference_name)}")
    return found
