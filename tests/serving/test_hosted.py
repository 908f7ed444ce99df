"""Where a model is read from: here, or where its replica starts. And what a RayService hosts."""

import json
from pathlib import Path

import pytest

from raystill import artifacts, storage
from raystill.artifacts import Checkpoint, Manifest
from raystill.errors import ResourceError, StorageError
from raystill.serving import keys
from raystill.stages import serve

COMMIT = "c" * 40
BOUNDS = {
    "max_ongoing": 4,
    "max_queued": 4,
    "max_body_bytes": 4096,
    "max_tokens": 64,
    "timeout_s": 60.0,
    "keys_file": None,
    "allow_origins": [],
}


def model(url: str, folder: str) -> Checkpoint:
    """What train makes: a manifest that names its attempt's folder."""
    manifest = Manifest("model", 1, "train", 1, "f" * 12, {}, {}, [], {}, {"folder": folder}, {})
    return artifacts.commit(Checkpoint, url, manifest)


def test_on_one_node_a_model_is_a_folder_of_this_machine(tmp_path: Path) -> None:
    made = model(str(tmp_path / "made"), "attempt")
    (tmp_path / "made" / "attempt").mkdir()
    for elsewhere in (False, True):
        hosted = serve.hosted("student", made, {"max_model_len": 64}, elsewhere)
        expected = {"name": "student", "folder": str(tmp_path / "made" / "attempt"), "engine": {"max_model_len": 64}}
        assert hosted == expected


def test_on_several_nodes_a_remote_model_is_fetched_where_it_starts(s3: str) -> None:
    made = model(storage.join(s3, "train", "f" * 12), "attempt")
    hosted = serve.hosted("student", made, {}, elsewhere=True)
    there = storage.join(s3, "train", "f" * 12, "attempt")
    assert hosted == {"name": "student", "engine": {}, "url": there, "fingerprint": "f" * 12}


def test_on_several_nodes_a_hubs_model_stays_at_its_commit() -> None:
    hosted = serve.hosted("teacher", Checkpoint("org/model", COMMIT), {"dtype": "auto"}, elsewhere=True)
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
    args = {"runs": str(runs), "models": [{"name": "student", "engine": {}}], "on_gpu": False, "cpus": 1, **BOUNDS}
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
    args = {
        "runs": runs,
        "models": [{"name": "student", "engine": {}}],
        "on_gpu": True,
        "cpus": 1,
        "key": None,
        **BOUNDS,
    }
    bound = app.build(args)._bound_deployment.init_kwargs["llm_deployments"]["student"]._bound_deployment.init_kwargs
    assert bound["remote"] == Checkpoint(storage.join(made.url, "attempt"), "f" * 12)
    assert bound["llm_config"].model_loading_config.model_source == str(artifacts.copies() / ("f" * 12))
