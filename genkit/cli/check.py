"""genkit check NAME."""

import json
import sys
import time
from dataclasses import asdict

import click

from ..hookspecs import Dataset, Entry, Metric, Model
from .output import say

KINDS: dict[str, type[Entry]] = {kind.noun: kind for kind in (Model, Dataset, Metric)}


@click.command()
@click.argument("name")
@click.option(
    "--kind",
    type=click.Choice(list(KINDS)),
    default="model",
    show_default=True,
    help="What NAME is.",
)
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
def check(name: str, kind: str, as_json: bool) -> None:
    """Check NAME against the contract between genkit and its plugins. Exit code 1 if a check fails.

    A dataset that takes an argument is given it: genkit check --kind dataset folder:PATH.
    """
    from ..testing import CHECKS, Result
    from ..testing.runner import run_checks, subject_of

    start = time.perf_counter()
    results: list[Result] = []
    width = max(map(len, CHECKS[KINDS[kind]]))
    for result in run_checks(subject_of(name, KINDS[kind]), KINDS[kind]):
        results.append(result)
        if not as_json:
            say(f"{result.check:{width}}  {result.outcome}  {result.reason}".rstrip())
    counts = {
        outcome: sum(r.outcome == outcome for r in results)
        for outcome in ("passed", "failed", "skipped")
    }
    if as_json:
        click.echo(
            json.dumps({kind: name, **counts, "checks": [asdict(r) for r in results]}, indent=2)
        )
    else:
        summary = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
        say(f"{name}: {summary} in {time.perf_counter() - start:.1f} s")
    sys.exit(1 if counts["failed"] else 0)
