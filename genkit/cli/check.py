"""genkit check MODEL."""

import json
import sys
import time
from dataclasses import asdict

import click


@click.command()
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
def check(model: str, as_json: bool) -> None:
    """Check MODEL against the contract between genkit and a model. Exit code 1 if a check fails."""
    from ..testing import CHECKS, Result
    from ..testing.runner import run_check, subject_of

    subject = subject_of(model)
    start = time.perf_counter()
    results: list[Result] = []
    width = max(map(len, CHECKS))
    for name, function in CHECKS.items():
        results.append(run_check(name, function, subject))
        if not as_json:
            click.echo(f"{name:{width}}  {results[-1].outcome}  {results[-1].reason}".rstrip())
    counts = {outcome: sum(r.outcome == outcome for r in results) for outcome in ("passed", "failed", "skipped")}
    if as_json:
        click.echo(json.dumps({"model": model, **counts, "checks": [asdict(r) for r in results]}, indent=2))
    else:
        summary = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
        click.echo(f"{model}: {summary} in {time.perf_counter() - start:.1f} s")
    sys.exit(1 if counts["failed"] else 0)
