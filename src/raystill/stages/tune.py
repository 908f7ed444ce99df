"""tune: trainings with other values, chosen by Ray Tune; those that fall behind are stopped early (ASHA, arXiv 1810.05934).

Trials report the cross-entropy of the validation text at each of their validations, which is the same measure for every
loss, temperature and k. Reports are stored as they come: a search that was stopped goes on without training anew for them.
"""

import importlib.util
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from raystill import artifacts, recipe, storage
from raystill.artifacts import Outcome, describe
from raystill.context import Context, Progress
from raystill.errors import Interrupted, RaystillError, StageError
from raystill.reporting.search import Trial, named
from raystill.training import checkpoints

VERSION = 1
TRIALS = "trials.jsonl"
METRIC = "text_loss"
KEEP_HALF = 2
"""Of the trials that came as far as a rung of 1, 2, 4, … validations, one in so many goes on."""
POLL_S = 0.3

Values = dict[str, Any]
Train = Callable[[Values, str, Callable[[float], None]], None]
"""Trains with these values, working below a folder, and gives its text loss after each validation."""


def tune(config: recipe.Tune, validations: int, at_once: int, train: Train, context: Context) -> Outcome:
    """All trials, in the order in which they were begun. Raises StageError when none came to its end, Interrupted."""
    url = context.url if storage.is_s3(context.url) else str(Path(context.url).resolve())
    folder = storage.join(url, "trials")
    context.progress.start(context.label, config.trials, "trials")
    tried: list[Values] = []
    errors: list[Exception] = []

    def search() -> None:
        from ray.exceptions import RayError
        from ray.tune.error import TuneError

        try:
            tried.extend(_search(config, validations, at_once, train, folder, context))
        except (RayError, TuneError, RuntimeError, ValueError) as e:
            errors.append(e)

    # In a thread of its own, since it blocks and would take over Ctrl-C.
    running = threading.Thread(target=search, daemon=True)
    running.start()
    while running.is_alive():
        running.join(POLL_S)
        if context.stopping.is_set():
            raise Interrupted("stopped; what trials reported is kept: run the same command to go on")
    if errors:
        raise StageError(f"the search failed: {errors[0]}") from errors[0]
    trials = [_kept(folder, values) for values in tried]
    if not any(trial.state == "whole" for trial in trials):
        why = next((trial.error for trial in trials if trial.error), "all were stopped")
        raise StageError(f"none of {len(trials)} trials came to its end: {why}")
    for values in tried:
        checkpoints.discard(storage.join(folder, _name(values)))
    data = "".join(f"{json.dumps(asdict(trial))}\n" for trial in trials).encode()
    storage.write(storage.join(url, TRIALS), data)
    counts = {state: sum(trial.state == state for trial in trials) for state in ("whole", "stopped", "failed")}
    return Outcome(
        "search", [describe(TRIALS, data)], counts=counts, facts={"search": "optuna" if _optuna() else "random"}
    )


def _search(
    config: recipe.Tune, validations: int, at_once: int, train: Train, folder: str, context: Context
) -> list[Values]:
    """What Ray Tune tried, in order."""
    from ray import tune as ray_tune
    from ray.tune.schedulers import ASHAScheduler

    def space(key: str, values: "list[Any] | recipe.Range") -> Any:
        if isinstance(values, list):
            return ray_tune.choice(values)
        draw = ray_tune.loguniform if key == "learning_rate" else ray_tune.uniform
        return draw(values.min, values.max)

    found = ray_tune.Tuner(
        lambda values: run_trial(values, folder, validations, train),
        param_space={key: space(key, values) for key, values in config.space().items()},
        tune_config=ray_tune.TuneConfig(
            metric=METRIC,
            mode="min",
            num_samples=config.trials,
            search_alg=sampler(config.seed, at_once),
            scheduler=ASHAScheduler(max_t=validations, grace_period=1, reduction_factor=KEEP_HALF),
        ),
        run_config=ray_tune.RunConfig(
            storage_path=str(context.scratch), verbose=0, callbacks=[_shown(context.progress)]
        ),
    ).fit()
    return [dict(result.config or {}) for result in found]


def run_trial(values: Values, folder: str, validations: int, train: Train) -> None:
    """One trial, in Ray Tune's actor: what it reported before is reported again, and it trains only to go beyond that."""
    from ray import tune as ray_tune

    before = _kept(folder, values)
    for loss in before.text_loss:
        ray_tune.report({METRIC: loss})
    if before.state == "whole":
        return
    seen: list[float] = []

    def report(loss: float) -> None:
        seen.append(loss)
        if len(seen) > len(before.text_loss):
            # Ray Tune ends a trial in its last report.
            _keep(folder, Trial(values, seen, "whole" if len(seen) == validations else "stopped"))
            ray_tune.report({METRIC: loss})

    try:
        train(values, storage.join(folder, _name(values)), report)
    except RaystillError as e:
        _keep(folder, Trial(values, seen, "failed", str(e)))
        raise
    _keep(folder, Trial(values, seen, "whole" if seen else "failed", None if seen else "it was never validated"))


def _keep(folder: str, trial: Trial) -> None:
    """What a trial came to so far."""
    storage.write(storage.join(folder, f"{_name(trial.values)}.json"), json.dumps(asdict(trial)).encode())


def _kept(folder: str, values: Values) -> Trial:
    url = storage.join(folder, f"{_name(values)}.json")
    return Trial(**json.loads(storage.read(url))) if storage.exists(url) else Trial(values, [], "failed", "it was lost")


def _name(values: Mapping[str, Any]) -> str:
    return artifacts.fingerprint("trial", VERSION, dict(values), {})


def _optuna() -> bool:
    return importlib.util.find_spec("optuna") is not None


def sampler(seed: int, at_once: int) -> Any:
    """Optuna's tree-structured Parzen estimator where it is installed, else random values; so many trials at once."""
    if _optuna():
        from ray.tune.search import ConcurrencyLimiter
        from ray.tune.search.optuna import OptunaSearch

        return ConcurrencyLimiter(OptunaSearch(seed=seed), max_concurrent=at_once)
    from ray.tune.search.basic_variant import BasicVariantGenerator

    return BasicVariantGenerator(max_concurrent=at_once, random_state=seed)


def _shown(progress: Progress) -> Any:
    """Tells of each trial as it ends."""
    from ray.tune import Callback

    class Shown(Callback):  # type: ignore[misc]
        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            progress.advance(1)
            result = trial.last_result
            progress.say(
                f"{named(trial.config)}: text loss {result[METRIC]:.4g} after {result['training_iteration']} validations"
            )

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            progress.advance(1, rejects=1)
            progress.say(f"{named(trial.config)}: failed")

    return Shown()
