"""What each stage asks for, by the recipe's own words."""

import json
from typing import Any

import pytest
import traps
import typer
import yaml
from documents import CASES, FLAGSHIP, ROOT, Doc, of_stage, rendered, values
from pydantic import ValidationError

from raystill import cli, steps
from raystill.launch import sizes
from raystill.launch.render import as_yaml, render
from raystill.launch.submission import dry_run
from raystill.recipe import Recipe, Replicas
from raystill.serving import keys


def groups(doc: Doc) -> list[tuple[str, int, int, int, int]]:
    """Name, GPUs of a pod, pods of a replica, fewest and most replicas."""
    return [
        (
            group["groupName"],
            int(group["template"]["spec"]["containers"][0]["resources"]["limits"].get("nvidia.com/gpu", 0)),
            *(group[key] for key in ("numOfHosts", "minReplicas", "maxReplicas")),
        )
        for group in traps.cluster(doc)["workerGroupSpecs"]
    ]


def test_the_flagships_documents() -> None:
    documents = rendered("flagship")
    assert [(doc["kind"], doc["metadata"]["labels"]["raystill.io/stage"]) for doc in documents] == [
        ("ConfigMap", "recipe"),
        ("Job", "driver"),
        ("RayJob", "generate"),
        ("RayJob", "train"),
        ("RayJob", "evaluate"),
        ("RayService", "serve"),
    ]
    assert groups(of_stage(documents, "generate")) == [("teacher", 8, 1, 1, 1)]
    assert groups(of_stage(documents, "train")) == [("trainer", 4, 1, 1, 1)]
    assert groups(of_stage(documents, "evaluate")) == [("models", 8, 1, 1, 1)]
    assert groups(of_stage(documents, "serve")) == [("student", 1, 1, 1, 1)]
    deadlines = [doc["spec"]["activeDeadlineSeconds"] for doc in documents if doc["kind"] == "RayJob"]
    assert deadlines == [24 * 3600, 24 * 3600, 6 * 3600]


def test_the_committed_documents_are_fresh() -> None:
    committed = (ROOT / "k8s" / "rendered" / f"{FLAGSHIP.stem}.yaml").read_text()
    told = f"raystill submit jobs/{FLAGSHIP.name} --to k8s --dry-run > k8s/rendered/{FLAGSHIP.name}"
    assert committed == dry_run(str(FLAGSHIP)).documents, f"run: {told}"


def test_an_engine_larger_than_a_node_is_a_replica_of_several_pods() -> None:
    documents = rendered("a teacher of two nodes")
    assert groups(of_stage(documents, "generate")) == [("teacher", 8, 2, 3, 3)]
    assert groups(of_stage(documents, "evaluate")) == [("models", 8, 2, 1, 1)]


@pytest.mark.parametrize(
    ("tensor", "pipeline", "pods"),
    [(1, 1, (1, 1)), (2, 4, (8, 1)), (8, 3, (8, 3)), (4, 4, (8, 2)), (4, 3, (4, 3)), (2, 6, (6, 2))],
)
def test_pods_of_an_engine_are_equal(tensor: int, pipeline: int, pods: tuple[int, int]) -> None:
    wide = {"tensor_parallel": tensor, "pipeline_parallel": pipeline}
    made = sizes.stages(Recipe.model_validate(values(teacher={"model": "a/b"}, compute={"generate": wide})))
    assert (made[0].groups[0].gpus, made[0].groups[0].hosts) == pods


@pytest.mark.parametrize(
    ("workers", "pods"), [(1, (1, 1)), (8, (8, 1)), (12, (6, 2)), (24, (8, 3)), ([8, 16], (8, 2)), (None, (8, 1))]
)
def test_trainers_fill_the_fewest_pods(workers: int | list[int] | None, pods: tuple[int, int]) -> None:
    recipe = Recipe.model_validate(values(compute={"train": {"workers": workers}}))
    trainers = next(stage for stage in sizes.stages(recipe) if stage.name == "train").groups[0]
    assert (trainers.gpus, trainers.least) == (trainers.gpus, trainers.most) == pods
    assert sizes.fitted(recipe).train.workers == (tuple(workers) if isinstance(workers, list) else workers or 8)


def test_trainers_are_no_more_than_a_step_has_examples() -> None:
    recipe = Recipe.model_validate(values(train={"batch_size": 4}))
    assert sizes.fitted(recipe).train.workers == 4
    assert groups(of_stage([*render(recipe, "")], "train"))[0][1] == 4


def test_an_elastic_teacher_keeps_its_least_replicas_on_demand_and_grows_on_spot_first() -> None:
    teacher = of_stage(rendered("elastic on spot"), "generate")
    assert groups(teacher) == [("teacher", 2, 1, 1, 16), ("teacher-spot", 2, 1, 0, 15)]
    kept, more = traps.cluster(teacher)["workerGroupSpecs"]
    assert more["priority"] > kept["priority"]
    assert more["template"]["spec"]["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
    assert "cloud.google.com/gke-spot" in [t["key"] for t in more["template"]["spec"]["tolerations"]]
    never = kept["template"]["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert never["nodeSelectorTerms"][0]["matchExpressions"][0] == {
        "key": "cloud.google.com/gke-spot", "operator": "NotIn", "values": ["true"],
    }  # fmt: skip


def test_an_api_has_no_cluster_and_a_scripted_teacher_no_gpu() -> None:
    assert "generate" not in [d["metadata"]["labels"]["raystill.io/stage"] for d in rendered("an API as teacher")]
    assert groups(of_stage(rendered("scripted"), "generate")) == [("teacher", 0, 1, 1, 1)]


def test_models_served_at_once_each_have_their_pods() -> None:
    at_once = groups(of_stage(rendered("two students together"), "evaluate"))
    assert at_once == [
        ("teacher", 2, 1, 1, 1),
        ("small-baseline", 1, 1, 1, 1),
        ("small", 1, 1, 1, 1),
        ("large-baseline", 1, 1, 1, 1),
        ("large", 1, 1, 1, 1),
    ]


def test_every_option_is_where_it_belongs() -> None:
    documents = rendered("every option")
    train, service = of_stage(documents, "train"), of_stage(documents, "serve")
    assert {doc["metadata"]["namespace"] for doc in documents} == {"team-a"}
    assert [d["metadata"]["labels"].get("kueue.x-k8s.io/queue-name") for d in documents if d["kind"] == "RayJob"] == [
        "team-a"
    ] * 4
    pod = traps.cluster(train)["workerGroupSpecs"][0]["template"]["spec"]
    limits = pod["containers"][0]["resources"]["limits"]
    assert (limits["rdma/ib"], limits["nvidia.com/gpu"]) == ("8", "8")
    assert pod["nodeSelector"] == {"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"}
    claim = next(v for v in pod["volumes"] if v["name"] == "cache")["ephemeral"]["volumeClaimTemplate"]["spec"]
    assert claim["storageClassName"] == "fast"
    assert traps.cluster(service)["gcsFaultToleranceOptions"]["redisAddress"] == "raystill-redis:6379"
    assert not any("gcsFaultToleranceOptions" in traps.cluster(d) for d in documents if d["kind"] == "RayJob")


def test_the_endpoints_key_is_for_pods_that_serve_alone() -> None:
    for doc in rendered("every option"):
        if doc["kind"] == "ConfigMap":
            continue
        for _, template in traps.templates(doc):
            names = [entry["name"] for entry in template["spec"]["containers"][0]["env"]]
            assert (keys.KEY in names) == (doc["kind"] == "RayService")
            assert "HF_TOKEN" in names


def test_driver_and_stages_read_one_recipe_and_name_one_hardware() -> None:
    documents = rendered("flagship")
    config = documents[0]["metadata"]["name"]
    for doc in documents[1:]:
        for _, template in traps.templates(doc):
            assert {"name": "recipe", "configMap": {"name": config}} in template["spec"]["volumes"]
            container = template["spec"]["containers"][0]
            assert {"name": "RAYSTILL_HARDWARE", "value": "8 x NVIDIA-H200"} in container["env"]
    assert yaml.safe_load(documents[0]["data"]["recipe.yaml"]) == CASES["flagship"]


@pytest.mark.parametrize("case", CASES)
def test_what_the_pods_read_renders_the_same_documents(case: str) -> None:
    """The driver renders again, from the recipe and the compute file in its pod."""
    first = rendered(case)
    text = first[0]["data"]["recipe.yaml"]
    inside = yaml.safe_load(text) | {"compute": yaml.safe_load(first[0]["data"]["compute.yaml"])}
    assert list(yaml.safe_load_all(as_yaml(render(Recipe.model_validate(inside), text)))) == first


def test_stages_hold_what_their_pods_have() -> None:
    """Ray waits for ever for an actor that asks for more CPUs than any pod has."""
    for case in CASES:
        recipe = Recipe.model_validate(CASES[case])
        fitted = sizes.fitted(recipe)
        node = sizes.node_of(recipe)
        for stage in sizes.stages(recipe):
            for group in stage.groups:
                cpus = sizes.cpus(group, node)
                if stage.name in ("generate", "score"):
                    assert (fitted.generate.cpus or 0) + max(0, group.gpus - 1) < cpus
                if stage.name == "train":
                    assert (fitted.train.cpus or 0) * group.gpus < cpus


def test_the_service_hosts_what_the_last_run_made() -> None:
    service = of_stage(rendered("two students together"), "serve")
    application = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"][0]
    assert application["import_path"] == "raystill.serving.app:build"
    args: dict[str, Any] = application["args"]
    assert args["runs"] == "s3://bucket/raystill/runs/small.json"
    plain = {"engine": {}, "replicas": Replicas().model_dump()}
    assert args["models"] == [{"name": "small", **plain}, {"name": "large", **plain}]
    assert args["on_gpu"] is True
    json.dumps(args)


@pytest.mark.parametrize("case", CASES)
def test_ray_serve_takes_the_services_configuration(case: str) -> None:
    from ray.serve.schema import HTTPOptionsSchema, LoggingConfig, ServeApplicationSchema, ServeDeploySchema

    written = yaml.safe_load(of_stage(rendered(case), "serve")["spec"]["serveConfigV2"])
    assert ServeDeploySchema.model_validate(written).applications[0].name == "raystill"
    # Ray passes over keys that it does not know.
    assert written.keys() <= ServeDeploySchema.model_fields.keys()
    assert written["http_options"].keys() <= HTTPOptionsSchema.model_fields.keys()
    assert written["logging_config"].keys() <= LoggingConfig.model_fields.keys()
    assert written["applications"][0].keys() <= ServeApplicationSchema.model_fields.keys()
    with pytest.raises(ValidationError, match="proxy_location"):
        ServeDeploySchema.model_validate(written | {"proxy_location": "Everywhere"})


@pytest.mark.parametrize("case", CASES)
def test_the_command_line_takes_what_driver_and_stages_run(case: str) -> None:
    documents = rendered(case)
    driver = of_stage(documents, "driver")["spec"]["template"]["spec"]["containers"][0]["command"]
    commands = [driver, *(doc["spec"]["entrypoint"].split(" ") for doc in documents if doc["kind"] == "RayJob")]
    known = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    for program, verb, *arguments in commands:
        assert program == "raystill"
        read = known[verb].make_context(verb, list(arguments)).params
        assert (read["recipe"], read["compute"]) == ("/etc/raystill/recipe.yaml", "/etc/raystill/compute.yaml")
        assert verb == "drive" or read["only"] in steps.ONLY


def test_other_recipes_have_other_configurations() -> None:
    one, other = (render(Recipe.model_validate(values(train={"seed": n})), f"seed {n}") for n in (1, 2))
    assert one[0]["metadata"]["name"] != other[0]["metadata"]["name"]
    assert one[2]["metadata"]["name"] == other[2]["metadata"]["name"]


def test_the_endpoint_grows_and_shrinks_between_the_recipes_bounds() -> None:
    service = of_stage(rendered("students that come and go"), "serve")
    assert groups(service) == [("small", 1, 1, 1, 4), ("large", 1, 1, 0, 1)]
    assert traps.cluster(service)["enableInTreeAutoscaling"] is True
    told = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"][0]["args"]["models"]
    bounds = {model["name"]: (model["replicas"]["min_replicas"], model["replicas"]["max_replicas"]) for model in told}
    assert bounds == {"small": (1, 4), "large": (0, 1)}


def test_a_changed_endpoint_may_start_as_a_second_cluster() -> None:
    made = render(Recipe.model_validate(values(kubernetes={"upgrade": "NewCluster"})), "")
    assert of_stage(made, "serve")["spec"]["upgradeStrategy"] == {"type": "NewCluster"}
    assert of_stage(rendered("small"), "serve")["spec"]["upgradeStrategy"] == {"type": "None"}
