"""submit, status, logs, wait, cancel and the driver, for real, against an API server that misbehaves."""

import contextlib
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import crds
import httpx
import pytest
import yaml
from documents import IMAGE, rendered, values
from stub_api import TOKEN, Doc, Stub, cluster
from typer.testing import CliRunner

from raystill import storage
from raystill.azure import Client
from raystill.cli import app
from raystill.distillation_job import DistillationJob
from raystill.errors import Interrupted, RaystillError, RecipeError, ResourceError, StageError
from raystill.launch import api, drive, examined, follow, kubernetes, places, submit
from raystill.launch.kubeconfig import bearer
from raystill.launch.kubernetes import Kubernetes
from raystill.launch.submission import submission
from raystill.launch.submitted import Submitted
from raystill.recipe_file import RecipeProblems

STAGES = ["small-generate", "small-train", "small-evaluate"]


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    """A cluster that the kubeconfig names, looked at often."""
    monkeypatch.setattr(api, "POLL_S", 0.02)
    monkeypatch.setattr(follow, "SILENCE_S", 0.1)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    with cluster(tmp_path) as stub:
        yield stub


@pytest.fixture
def recipe(tmp_path: Path, s3: str) -> str:
    """A recipe with data of this machine, for a store that pods find."""
    (tmp_path / "train.jsonl").write_text('{"prompt": "hello"}\n')
    return write(tmp_path, s3)


def write(folder: Path, root: str, **changes: Any) -> str:
    endpoint = {"environment": {"AWS_ENDPOINT_URL": os.environ["AWS_ENDPOINT_URL"]}}
    path = folder / "recipe.yaml"
    path.write_text(
        yaml.safe_dump(values(root=root, data={"train": str(folder / "train.jsonl")}, kubernetes=endpoint, **changes))
    )
    return str(path)


class Told:
    """Progress and a screen: keeps its lines."""

    def __init__(self, say: Callable[[str], None] | None = None) -> None:
        self.lines: list[str] = []
        self.say = say or self.lines.append

    def start(self, stage: str, total: int | None, unit: str) -> None: ...

    def advance(self, done: int = 1, **scalars: float) -> None: ...


@contextlib.contextmanager
def logged_in(stub: Stub, stopping: threading.Event | None = None, patience_s: float = 20) -> Iterator[api.Api]:
    """As a pod is."""
    with httpx.Client(base_url=stub.url, verify=False, auth=bearer(lambda: TOKEN)) as client:
        yield api.Api(client, stopping or threading.Event(), patience_s)


def driver(stub: Stub) -> Callable[[Doc, Callable[[str], None]], int]:
    """A kubelet that makes all stages as the driver does, with what the ConfigMap holds."""

    def run(job: Doc, say: Callable[[str], None]) -> int:
        config = job["spec"]["template"]["spec"]["volumes"][0]["configMap"]["name"]
        assert stub.of("configmaps")[config]["data"]["recipe.yaml"]
        say("prepare: done")
        with logged_in(stub) as there:
            try:
                for doc in rendered("small"):
                    if doc["kind"] == "RayJob":
                        drive.make(there, of(config, doc), Told(say))
            except RaystillError as e:
                say(f"error: {e}")
                return e.exit_code
        return 0

    return run


def of(config: str, job: Doc) -> Doc:
    """A RayJob with the recipe of a ConfigMap."""
    made: Doc = json.loads(re.sub(r"small-[0-9a-f]{12}", config, json.dumps(job)))
    return made


def submitted(recipe: str, anyway: bool = False) -> tuple[Kubernetes, list[str]]:
    told = Told()
    place, name = submit.to_kubernetes(recipe, None, None, anyway, told.say)
    assert name == "small" and isinstance(place, Kubernetes)
    return place, told.lines


def followed(place: follow.Place) -> list[str]:
    told = Told()
    follow.follow(place, "small", told.say)
    return told.lines


def problems(recipe: str) -> str:
    with pytest.raises(RecipeProblems) as raised:
        submitted(recipe)
    return str(raised.value)


def nothing_created(stub: Stub) -> bool:
    return not stub.of("configmaps") and not stub.of("jobs")


def until(done: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 20
    while not (found := done()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def test_a_run_is_created_followed_to_its_end_and_looked_at_by_name(stub: Stub, recipe: str) -> None:
    stub.kubelet = driver(stub)
    place, said = submitted(recipe)
    assert [line.split()[0] for line in said] == ["cluster", "uploaded", "created"]
    (config,) = stub.of("configmaps").values()
    read = yaml.safe_load(config["data"]["recipe.yaml"])
    (address,) = read["data"]["train"]
    bucket, _, key = address.removeprefix("s3://").partition("/")
    assert boto3.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read() == b'{"prompt": "hello"}\n'
    lines = followed(place)
    assert lines[0] == "prepare: done"
    ends = [f"{name}: Complete" for name in STAGES]
    assert [line for line in lines if line in ends] == ends
    elsewhere, name = places.find("small", "k8s", None, None, None, None)
    assert follow.status(elsewhere, name).splitlines()[-1] == "'small' is done"
    assert list(follow.so_far(elsewhere, name)) == lines
    assert stub.requests["create rayjobs"] == 3


def test_a_job_of_the_client_runs_there(
    stub: Stub, s3: str, recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stub.kubelet = driver(stub)
    given = yaml.safe_load(Path(recipe).read_text())
    client = Client({"root": s3, "compute": given["compute"]}, Submitted("k8s"))
    models = {"teacher_model": "deepseek-v3", "student_model": "phi-4-mini"}
    job = client.jobs.create_or_update(
        DistillationJob(**models, training_data=str(tmp_path / "train.jsonl"), name="small")
    )
    assert job.status == "Running"
    told = list[str]()
    client.jobs.stream("small", told.append)
    assert "prepare: done" in told and client.jobs.get("small").status == "Completed"
    assert client.jobs.cancel("small").status == "Canceled"
    assert not stub.of("jobs")


def test_the_commands(stub: Stub, recipe: str) -> None:
    stub.kubelet = driver(stub)

    def typed(*words: str) -> str:
        done = CliRunner().invoke(app, words, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    said = typed("submit", recipe, "--to", "k8s", "--detach")
    assert said.splitlines()[-1] == "follow it: raystill logs small -f --namespace raystill"
    assert typed("wait", "small") == ""
    assert "'small' is done" in typed("status", "small")
    assert "small-train: Complete" in typed("logs", "small", "-f", "--context", "stub")
    assert "generate  " in typed("status", recipe)  # a recipe's own steps, as before
    assert "'small' is done" in typed("status", recipe, "--to", "k8s")
    assert "is cancelled" in typed("cancel", recipe)
    assert nothing_created(stub)


def test_submitting_again_finds_the_run_that_goes_and_uploads_nothing_twice(stub: Stub, recipe: str) -> None:
    stub.scripts["small-train"] = [("Running", "RUNNING"), ("lasts",)]
    stub.kubelet = driver(stub)
    submitted(recipe)
    before = until(lambda: stub.of("rayjobs").get("small-train")) and stub.of("jobs")
    _, said = submitted(recipe)
    assert [line.split()[0] for line in said] == ["cluster", "is"]
    assert stub.of("jobs") == before


def test_one_that_ended_is_made_again_and_goes_on(stub: Stub, recipe: str) -> None:
    stub.kubelet = lambda job, say: 1
    place, _ = submitted(recipe)
    with pytest.raises(StageError, match="'small' failed: exit code 1"):
        followed(place)
    stub.kubelet = driver(stub)
    place, said = submitted(recipe)
    assert "created" in said[-1]
    assert "small-evaluate: Complete" in followed(place)


@pytest.mark.parametrize("left", ["the driver", "a stage"])
def test_a_changed_recipe_is_refused_while_its_run_is_going(
    stub: Stub, recipe: str, tmp_path: Path, s3: str, left: str
) -> None:
    stub.scripts["small-generate"] = [("Running", "RUNNING"), ("lasts",)]
    stub.kubelet = driver(stub)
    submitted(recipe)
    until(lambda: "small-generate" in stub.of("rayjobs"))
    if left == "a stage":
        stub.remove("/apis/batch/v1/namespaces/raystill/jobs/small-driver")
    before = dict(stub.objects)
    write(tmp_path, s3, train={"learning_rate": 1e-5})
    with pytest.raises(RecipeError, match=r"the recipe has changed while 'small' is going.*raystill cancel small"):
        submitted(recipe)
    assert stub.objects.keys() == before.keys()


def test_two_people_submit_at_once_and_one_run_comes_of_it(stub: Stub, recipe: str) -> None:
    stub.scripts["small-generate"] = [("lasts",)]
    stub.kubelet = driver(stub)
    config, job, *_ = submission(recipe).documents
    created: list[bool] = []
    both = [
        threading.Thread(target=lambda: created.append(kubernetes.connect(None, "raystill")[0].create(config, job)))
        for _ in range(2)
    ]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert sorted(created) in ([False, True], [True, True]) and len(stub.of("jobs")) == 1
    until(lambda: stub.requests["create rayjobs"])
    assert stub.requests["create rayjobs"] == 1


def test_a_server_that_is_busy_restarts_or_loses_answers_is_asked_again(stub: Stub, recipe: str) -> None:
    stub.kubelet = driver(stub)
    stub.faults = ["none", "429", "503", "down", "lost", "none", "lost", "429", "lost", "down", "500", "lost"] * 3
    place, _ = submitted(recipe)
    stub.faults += ["lost", "none", "429", "none", "down"] * 6
    assert "small-evaluate: Complete" in followed(place)
    assert stub.requests["create rayjobs"] >= 3
    assert sorted(stub.of("rayjobs")) == sorted(STAGES)


def test_a_log_whose_stream_ends_is_gone_on_with(stub: Stub, recipe: str) -> None:
    stub.cut_logs_after = 2
    lines = [f"line {i}" for i in range(7)]

    def talk(job: Doc, say: Callable[[str], None]) -> int:
        for line in lines:
            say(line)
            time.sleep(1.01)  # sinceTime takes whole seconds
        return 0

    stub.kubelet = talk
    place, _ = submitted(recipe)
    assert followed(place) == lines


def test_ctrl_c_leaves_the_run_and_says_how_to_look_again(stub: Stub, recipe: str) -> None:
    stub.scripts["small-train"] = [("Running", "RUNNING"), ("lasts",)]
    stub.kubelet = driver(stub)
    place, _ = submitted(recipe)

    def pressed(line: str) -> None:
        if "small-train: Running" in line:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="raystill logs small -f --namespace raystill; end it: raystill cancel small"):
        follow.follow(place, "small", pressed)
    assert "small-train" in stub.of("rayjobs")
    assert "small-train" in follow.status(place, "small")


def test_cancel_ends_driver_and_stages_and_submitting_goes_on(stub: Stub, recipe: str) -> None:
    stub.scripts["small-generate"] = [("Running", "RUNNING"), ("lasts",)]
    stub.kubelet = driver(stub)
    place, _ = submitted(recipe)
    until(lambda: "small-generate" in stub.of("rayjobs"))
    assert "is cancelled (small-generate)" in place.cancel("small")
    assert not stub.of("jobs") and not stub.of("rayjobs") and not stub.of("configmaps")
    with pytest.raises(RecipeError, match="no run 'small' in namespace raystill; there are: none"):
        place.cancel("small")


def test_a_stage_that_somebody_deletes_fails_the_run_in_clear_words(stub: Stub, recipe: str) -> None:
    stub.scripts["small-train"] = [("Running", "RUNNING"), ("lasts",)]
    stub.kubelet = driver(stub)
    place, _ = submitted(recipe)
    path = "/apis/ray.io/v1/namespaces/raystill/rayjobs/small-train"
    until(lambda: stub.objects.get(path, {}).get("status", {}).get("jobStatus"))
    time.sleep(0.1)
    stub.remove(path)
    told = Told()
    with pytest.raises(StageError, match="'small' failed: exit code 1"):
        follow.follow(place, "small", told.say)
    assert any("RayJob small-train was deleted by someone" in line for line in told.lines)


def test_a_stage_that_fails_tells_the_operators_words(stub: Stub, recipe: str) -> None:
    stub.scripts["small-train"] = [("Running", "RUNNING"), ("Failed", "FAILED", "DeadlineExceeded")]
    stub.kubelet = driver(stub)
    place, _ = submitted(recipe)
    told = Told()
    with pytest.raises(StageError):
        follow.follow(place, "small", told.say)
    assert any("RayJob small-train failed: DeadlineExceeded" in line for line in told.lines)
    assert "small-train" in (status := follow.status(place, "small")) and "Failed, FAILED, DeadlineExceeded" in status


def test_a_stage_that_is_tried_again_goes_on(stub: Stub, recipe: str) -> None:
    again = [("Running", "RUNNING"), ("Retrying", ""), ("Initializing", ""), ("Running", "RUNNING")]
    stub.scripts["small-train"] = [*again, ("Complete", "SUCCEEDED")]
    stub.kubelet = driver(stub)
    place, _ = submitted(recipe)
    assert "small-train: Complete" in followed(place)
    assert "attempt 2" in follow.status(place, "small")


def test_a_driver_whose_pod_goes_is_replaced_by_one_that_finds_the_stage(stub: Stub, recipe: str) -> None:
    stub.scripts["small-generate"] = [("Running", "RUNNING"), ("lasts",)]
    stub.kubelet = driver(stub)
    submitted(recipe)
    until(lambda: stub.requests["create rayjobs"])
    doc = of(next(iter(stub.of("configmaps"))), rendered("small")[2])
    stopping = threading.Event()
    threading.Timer(0.2, stopping.set).start()
    with logged_in(stub, stopping) as there, pytest.raises(Interrupted):
        drive.make(there, doc, Told())
    assert stub.requests["create rayjobs"] == 1 and "small-generate" in stub.of("rayjobs")


def test_an_image_that_cannot_be_pulled_ends_the_wait(stub: Stub, recipe: str) -> None:
    stub.kubelet = lambda job, say: time.sleep(60) or 0  # type: ignore[func-returns-value]
    place, _ = submitted(recipe)
    waiting = {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}, "image": IMAGE}
    path = until(lambda: next((p for p in stub.objects if "/pods/" in p), None))
    pod = stub.objects[path]
    stub.put(path, {**pod, "status": {"containerStatuses": [waiting]}})
    with pytest.raises(StageError, match=r"image registry.*cannot be pulled: not found.*raystill cancel small"):
        followed(place)


def test_pods_that_find_no_node_are_told_once(stub: Stub, recipe: str) -> None:
    stub.scripts["small-generate"] = [("Initializing", ""), ("lasts",)]
    stub.kubelet = driver(stub)
    place, _ = submitted(recipe)
    status = {"conditions": [{"reason": "Unschedulable", "status": "False", "message": "0/3 nodes"}]}
    labels = {"raystill.io/run": "small", "raystill.io/stage": "generate"}
    stub.put("/api/v1/namespaces/raystill/pods/w-0", {"metadata": {"labels": labels}, "status": status})
    told = Told()

    def stop_at_second(line: str) -> None:
        told.lines.append(line)
        if "Unschedulable" in line or "no node takes it" in line:
            threading.Timer(0.5, lambda: stub.remove("/apis/batch/v1/namespaces/raystill/jobs/small-driver")).start()

    with pytest.raises(RecipeError, match="no run 'small'"):
        follow.follow(place, "small", stop_at_second)
    assert [line for line in told.lines if "w-0" in line] == ["w-0: no node takes it: 0/3 nodes"]


def old(stub: Stub) -> None:
    spec = {key: {} for key in rendered("small")[2]["spec"] if key != "preRunningDeadlineSeconds"}
    top = {"apiVersion": {}, "kind": {}, "metadata": {}, "spec": {"properties": spec}}
    stub.schemas = {"RayJob": {"properties": top}, "RayService": {}}


def old_operator(stub: Stub) -> None:
    about = {"labels": {"app.kubernetes.io/name": "kuberay-operator"}}
    spec = {"template": {"spec": {"containers": [{"image": "quay.io/kuberay/operator:v1.4.2"}]}}}
    stub.put("/apis/apps/v1/namespaces/kuberay/deployments/kuberay-operator", {"metadata": about, "spec": spec})


def quota(stub: Stub, what: str, hard: str) -> None:
    stub.put("/api/v1/namespaces/raystill/resourcequotas/ours", {"spec": {"hard": {what: hard}}})


WRONG: list[tuple[Callable[[Stub], Any], str, str]] = [
    (lambda s: s.remove("/api/v1/namespaces/raystill"), "has no namespace raystill", "kubectl apply --server-side -k k8s"),
    (lambda s: s.forbidden.add(("patch", "jobs")), "you may not patch jobs in raystill", "--role raystill-submitter"),
    (lambda s: setattr(s, "schemas", None), "KubeRay is not installed", "helm install kuberay-operator"),
    (old, "does not know RayJob.spec.preRunningDeadlineSeconds", "the definitions first"),
    (old_operator, "operator is quay.io/kuberay/operator:v1.4.2", "helm upgrade"),
    (lambda s: quota(s, "requests.nvidia.com/gpu", "1"), "generate takes 2 of requests.nvidia.com/gpu", "resourcequota ours"),
    (lambda s: quota(s, "limits.memory", "64Gi"), "quota allows 64Gi", "ask for less in 'compute'"),
    (
        lambda s: s.put("/api/v1/nodes/gpu-0", {"metadata": {"labels": {"nvidia.com/gpu.product": "NVIDIA-L4"}}}),
        "no node has nvidia.com/gpu.product=NVIDIA-H100-80GB-HBM3; GPU types there: NVIDIA-L4", "--anyway",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "what", "fix"), WRONG)
def test_a_cluster_that_is_not_ready_is_said_before_anything_is_created(
    stub: Stub, recipe: str, spoil: Callable[[Stub], Any], what: str, fix: str
) -> None:
    spoil(stub)
    said = problems(recipe)
    assert what in said and fix in said
    assert nothing_created(stub)


def test_a_storage_class_that_is_not_there_is_said(stub: Stub, recipe: str) -> None:
    stub.put("/apis/storage.k8s.io/v1/storageclasses/fast", {"metadata": {}})
    given = yaml.safe_load(Path(recipe).read_text())
    given["compute"]["kubernetes"]["storage_class"] = "fats"
    Path(recipe).write_text(yaml.safe_dump(given))
    assert "no storage class fats; there are: fast" in problems(recipe)


def test_plan_check_looks_at_the_cluster(
    stub: Stub, recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (well, there) = examined.examine(recipe)
    assert well.problem is there.problem is None and "KubeRay, quota, storage class" in there.what
    quota(stub, "requests.nvidia.com/gpu", "1")
    (_, short, *_) = examined.examine(recipe)
    assert short.problem and "generate takes 2 of requests.nvidia.com/gpu" in short.problem
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    (_, unseen) = examined.examine(recipe)
    assert unseen.problem is None and unseen.note and "export KUBECONFIG=FILE" in unseen.note
    assert nothing_created(stub)


def test_anyway_makes_remarks_of_what_looks_wrong(stub: Stub, recipe: str) -> None:
    quota(stub, "requests.nvidia.com/gpu", "1")
    _, said = submitted(recipe, anyway=True)
    assert any(line.startswith("warning: ") and "requests.nvidia.com/gpu" in line for line in said)
    assert "small-driver" in stub.of("jobs")


def test_who_may_not_look_at_nodes_and_quotas_may_submit(stub: Stub, recipe: str) -> None:
    stub.forbidden |= {("get", "nodes"), ("get", "resourcequotas"), ("get", "deployments"), ("get", "namespaces")}
    assert "created" in submitted(recipe)[1][-1]


def test_an_endpoint_is_created_once_there_is_a_student(stub: Stub, recipe: str, s3: str) -> None:
    with pytest.raises(StageError, match="'small' has no student yet; type: raystill submit"):
        submit.endpoint(recipe, None, None)
    assert nothing_created(stub)
    storage.put_if_absent(f"{s3}/runs/small.json", b"{}")
    for _ in range(2):
        assert "http://small-serve-svc.raystill:8000/v1" in submit.endpoint(recipe, None, None)
    (service,) = stub.of("rayservices").values()
    (config,) = stub.of("configmaps")
    assert config in json.dumps(service["spec"])


@crds.needed
def test_kuberays_own_definitions_know_all_that_is_rendered(stub: Stub, recipe: str) -> None:
    stub.schemas = {kind: crds.schema(kind) for kind in ("RayJob", "RayService")}
    assert "created" in submitted(recipe)[1][-1]


def test_a_store_that_only_this_machine_knows_is_refused(stub: Stub, recipe: str, tmp_path: Path, s3: str) -> None:
    path = write(tmp_path, s3)
    read = yaml.safe_load(Path(path).read_text())
    del read["compute"]["kubernetes"]["environment"]
    Path(path).write_text(yaml.safe_dump(read))
    assert re.search(r"pods would look for it on AWS\n.*environment: \{AWS_ENDPOINT_URL: http://127", problems(path))
    assert nothing_created(stub)


def context(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        read = yaml.safe_load((folder / "kubeconfig").read_text())
        for part, what in changes.items():
            read[part] = what
        (folder / "kubeconfig").write_text(yaml.safe_dump(read))

    return change


def logging_in_by(**user: Any) -> Callable[[Path], None]:
    return context(users=[{"name": "me", "user": user}])


def program(text: str) -> dict[str, Any]:
    return {"apiVersion": "client.authentication.k8s.io/v1", "command": "sh", "args": ["-c", text]}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda folder: (folder / "kubeconfig").unlink(), r"no kubeconfig: .* is not there; .*update-kubeconfig"),
        (lambda folder: (folder / "kubeconfig").write_text("{"), "cannot be read as a kubeconfig"),
        (context(**{"current-context": "prod"}), "no context 'prod' in .*; there are: stub; type: raystill … --context"),
        (context(**{"current-context": ""}), "no current context"),
        (context(clusters=[]), "context 'stub' names 'stub', which is not in"),
        (context(clusters=[{"name": "stub", "cluster": {"server": "https://127.0.0.1:1"}}]), "does not answer"),
        (logging_in_by(token="old"), "refuses the login of its context"),
        (logging_in_by(exec=program("echo expired >&2; exit 1")), "sh gave no credential for context 'stub': expired"),
        (
            logging_in_by(exec={"apiVersion": "v1", "command": "no-such-plugin", "installHint": "get it"}),
            "logs in by no-such-plugin, which is not here; get it",
        ),
    ],
)  # fmt: skip
def test_a_kubeconfig_that_leads_nowhere_is_said(
    stub: Stub, tmp_path: Path, change: Callable[[Path], Any], says: str
) -> None:
    change(tmp_path)
    with pytest.raises(ResourceError, match=says):
        kubernetes.connect(None, "raystill")


def test_a_program_gives_tokens_and_is_asked_again_when_they_run_out(stub: Stub, tmp_path: Path) -> None:
    given = {"kind": "ExecCredential", "status": {"token": TOKEN, "expirationTimestamp": "2020-01-01T00:00:00Z"}}
    logging_in_by(exec=program(f"echo asked >> {tmp_path}/asked; echo '{json.dumps(given)}'"))(tmp_path)
    place, _ = kubernetes.connect(None, "raystill")
    place.api.ask("GET", "/version")
    assert len((tmp_path / "asked").read_text().split()) >= 3


def test_a_namespace_of_another_recipe_is_found(stub: Stub) -> None:
    with pytest.raises(
        RecipeError, match="no run 'x' in namespace team-a; there are: none; or name another: --namespace"
    ):
        follow.status(*places.find("x", "k8s", None, "team-a", None, None))


def test_another_place_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"--to takes k8s \(KubeRay\) or ray"):
        places.find("x", "slurm", None, None, None, None)
