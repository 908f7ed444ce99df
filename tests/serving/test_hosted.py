"""Where a model is read from: here, or where its replica starts. And what a RayService hosts."""

import json
from pathlib import Path
from typing import Any

import pytest

from raystill import artifacts, storage
from raystill.artifacts import Checkpoint, Manifest
from raystill.errors import ResourceError, StorageError
from raystill.recipe import Replicas, Serve
from raystill.serving import keys
from raystill.serving.sharing import Host
from raystill.stages import serve

COMMIT = "c" * 40
PLAIN = {"replicas": Replicas().model_dump(), "also": [], "adapters": {}}
STUDENT = {"name": "student", "engine": {}, "replicas": Replicas().model_dump()}
BOUNDS = {**serve.limits(Serve()), "surge_percent": 0, "finish_s": 1.0, "cpus": 1}


def model(url: str, folder: str) -> Checkpoint:
    """What train makes: a manifest that names its attempt's folder."""
    manifest = Manifest("model", 1, "train", 1, "f" * 12, {}, {}, [], {}, {"folder": folder}, {})
    return artifacts.commit(Checkpoint, url, manifest)


def test_on_one_node_a_model_is_a_folder_of_this_machine(tmp_path: Path) -> None:
    made = model(str(tmp_path / "made"), "attempt")
    (tmp_path / "made" / "attempt").mkdir()
    for elsewhere in (False, True):
        hosted = serve.hosted(Host("student", made, {"max_model_len": 64}), Replicas(), elsewhere)
        expected = {"folder": str(tmp_path / "made" / "attempt"), "engine": {"max_model_len": 64}}
        assert hosted == {"name": "student", **expected, **PLAIN}


def test_on_several_nodes_a_remote_model_is_fetched_where_it_starts(s3: str) -> None:
    made = model(storage.join(s3, "train", "f" * 12), "attempt")
    adapter = Checkpoint(storage.join(made.place(), "adapter"), "a" * 12)
    hosted = serve.hosted(Host("base", made, {}, adapters={"student": adapter}), Replicas(), elsewhere=True)
    there = storage.join(s3, "train", "f" * 12, "attempt")
    over = {"student": {"url": f"{there}/adapter", "fingerprint": "a" * 12}}
    assert hosted == {"name": "base", "engine": {}, "url": there, "fingerprint": "f" * 12, **PLAIN, "adapters": over}


def test_on_several_nodes_a_hubs_model_stays_at_its_commit() -> None:
    hosted = serve.hosted(
        Host("teacher", Checkpoint("org/model", COMMIT), {"dtype": "auto"}), Replicas(), elsewhere=True
    )
    assert hosted["folder"] == "org/model"
    assert hosted["engine"] == {"dtype": "auto", "revision": COMMIT, "tokenizer_revision": COMMIT}


@pytest.mark.slow
def test_a_service_hosts_what_the_last_run_made_and_only_with_a_key(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from raystill.serving import app

    made = model(str(tmp_path / "made"), "attempt")
    (tmp_path / "made" / "attempt").symlink_to(tiny_model)
    runs = tmp_path / "n.json"
    runs.write_text(json.dumps({"student": made.url, "gone": str(tmp_path / "gone")}))
    assert app.newest(str(runs), "student") == {"folder": str(tmp_path / "made" / "attempt")}
    with pytest.raises(StorageError, match="run the recipe again"):
        app.newest(str(runs), "gone")
    args = {"runs": str(runs), "models": [STUDENT], "on_gpu": False, **BOUNDS}
    monkeypatch.delenv(keys.KEY, raising=False)
    with pytest.raises(ResourceError, match=keys.KEY):
        app.build(args)
    monkeypatch.setenv(keys.KEY, "k")
    assert app.build(args) is not None
    assert "key" not in args
    monkeypatch.delenv(keys.KEY)
    (tmp_path / "keys.yaml").write_text("alice: {key: 0123456789abcdef}")
    assert app.build(args | {"keys_file": str(tmp_path / "keys.yaml")}) is not None


@pytest.mark.slow
def test_a_remote_model_is_loaded_from_its_copy_which_its_fingerprint_names(s3: str) -> None:
    from raystill.serving import app

    made = model(storage.join(s3, "train", "f" * 12), "attempt")
    runs = storage.join(s3, "runs", "n.json")
    storage.write(runs, json.dumps({"student": made.url}).encode())
    args = {"runs": runs, "models": [STUDENT], "on_gpu": True, "key": None, **BOUNDS}
    bound = app.build(args)._bound_deployment.init_kwargs["llm_deployments"]["student"]._bound_deployment.init_kwargs
    assert bound["model"].weights.remote() == Checkpoint(storage.join(made.url, "attempt"), "f" * 12)
    assert bound["llm_config"].model_loading_config.model_source == str(artifacts.copies() / ("f" * 12))


@pytest.mark.slow
def test_a_deployment_is_pinned_to_what_decides_it_and_ray_serve_scales_it_by_the_recipe(tiny_model: Path) -> None:
    from raystill.serving import app

    def built(**replicas: Any) -> Any:
        teacher = {"name": "teacher", "folder": str(tiny_model), "engine": {}, "replicas": Replicas().model_dump()}
        student = teacher | {"name": "student", "replicas": Replicas(**replicas).model_dump()}
        return app.build({"models": [teacher, student], "on_gpu": False, "key": None, **BOUNDS})._bound_deployment

    def servers(ingress: Any) -> dict[str, Any]:
        return {name: a._bound_deployment for name, a in ingress.init_kwargs["llm_deployments"].items()}

    once, again, other = built(), built(), built(min_replicas=0, max_replicas=3, downscale_delay_s=5)
    assert once.version == again.version != other.version  # the ingress is told who sleeps
    assert servers(once)["student"].version == servers(again)["student"].version
    assert servers(once)["student"].version != servers(other)["student"].version
    assert servers(once)["teacher"].version == servers(other)["teacher"].version
    assert other.init_kwargs["idle_s"] == {"student": 5}
    assert servers(once)["student"].num_replicas == 1
    scaled = servers(other)["student"]._deployment_config.autoscaling_config
    assert (scaled.min_replicas, scaled.max_replicas, scaled.target_ongoing_requests) == (0, 3, 48)
