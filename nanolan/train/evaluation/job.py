"""The evaluation of a phase's final checkpoint, as a separate job: if it fails, the checkpoint is saved already.

{"evaluate": "quick", "results": ".../evaluation.json", ...}  ->  evaluate_model's results, as JSON in that file,
and then a few of the model's answers beside it, in evaluation.samples.json: good to have and no more
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from nanolan.checkpoint.evaluation import PhaseSamples, beside
from nanolan.checkpoint.manifest import newest_whole
from nanolan.errors import BadAnswer, RunFailed
from nanolan.model import checkpoint
from nanolan.model.generation.engine import Engine
from nanolan.model.tokenizer import load_tokenizer
from nanolan.train.evaluation.evaluate import evaluate_model
from nanolan.train.evaluation.samples import answers
from nanolan.train.job import Job
from nanolan.train.phase import check_fit
from nanolan.train.processes import Processes
from nanolan.train.progress import ProgressWriter
from nanolan.train.recipe import recipe_for
from nanolan.train.stop import StopFlag


def judge(job: Job, world: Processes) -> None:
    """Evaluate the final checkpoint in job.out_dir and write job.results; NanolanError when there are no results."""
    report, recipe = ProgressWriter(job, world.first), recipe_for(job.phase, job.recipe)
    report.beat("load")
    found = newest_whole(job.out_dir, job.phase, final=True)
    if found is None:
        raise BadAnswer(f"{job.out_dir} holds no whole checkpoint of {job.phase} to evaluate")
    folder, manifest = found
    start, tokenizer = checkpoint.load(folder, world.device), load_tokenizer(job.tokenizer_dir)
    check_fit(start.model, tokenizer, recipe)
    report.steps = start.step
    report.say(f"{job.phase} step {start.step}: evaluation ({job.evaluate})")
    with StopFlag() as stop:
        results = evaluate_model(
            start.model,
            tokenizer,
            job.data_dir,
            world,
            job.evaluate or "quick",
            humaneval=job.humaneval,
            say=report.say,
            max_new_tokens=recipe.exam_new_tokens,
            most_problems=recipe.exam_problems,
            stopped=lambda: stop.requested,
            beat=lambda: report.beat("evaluate", start.step),
        )
        stopped = bool(world.totals(stop.requested)[0])
    world.close()
    if stopped:
        raise RunFailed("stopped during the evaluation: no results")
    if world.first:
        write_results(job, report, {"step": manifest.step, **results})
        write_samples(
            job, report, manifest.step, Engine(start.model, tokenizer), recipe.exam_new_tokens
        )


def write_results(job: Job, report: ProgressWriter, results: dict[str, Any]) -> None:
    """Write the results atomically to a file, and their numbers as a row of the metrics."""
    assert job.results  # noqa: S101  # read_job has checked it
    write_whole(job.results, json.dumps(results, indent=2).encode())
    report.row({key: value for key, value in results.items() if isinstance(value, (int, float))})


def write_samples(
    job: Job, report: ProgressWriter, step: int, engine: Engine, most_tokens: int
) -> None:
    """Write sample answers of the model beside the results."""
    assert job.results  # noqa: S101
    report.beat("evaluate", step)
    try:
        found = PhaseSamples(job.phase, step, answers(engine, job.data_dir, most_tokens))
        write_whole(beside(job.results), msgspec.json.encode(found))
    except Exception as e:  # the results are already written
        report.say(f"no samples: {type(e).__name__}: {e}")


def write_whole(path: Path, data: bytes) -> None:
    """Write atomically."""
    temp = path.with_name(path.name + ".tmp")
    temp.write_bytes(data + b"\n")
    temp.replace(path)
