"""A cluster on this machine: Kubernetes' API over real HTTPS, with the operator and the controllers that a run meets.

Objects have uids and resource versions, creation and apply meet conflicts, dry runs store nothing. A RayJob goes through the
states of its script, a Job's pod runs what `kubelet` is. What can go wrong is asked for: `faults`, `forbidden`, `scripts`.
"""

import contextlib
import copy
import datetime
import http.server
import itertools
import json
import ssl
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

Doc = dict[str, Any]
TOKEN = "s3cret-t0ken"
TICK_S = 0.02
GOOD = [("Initializing", ""), ("Running", "RUNNING"), ("Complete", "SUCCEEDED")]
"""jobDeploymentStatus and jobStatus of a RayJob, one after another."""
NODE = {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}
KINDS = {
    "configmaps": "ConfigMap", "jobs": "Job", "rayjobs": "RayJob", "rayservices": "RayService", "pods": "Pod",
    "nodes": "Node", "events": "Event", "namespaces": "Namespace", "resourcequotas": "ResourceQuota",
    "deployments": "Deployment", "storageclasses": "StorageClass",
}  # fmt: skip
VERBS = {"GET": "get", "POST": "create", "PATCH": "patch", "DELETE": "delete"}


class Stub(http.server.ThreadingHTTPServer):
    """The API server's store, and what happens by itself."""

    daemon_threads = True
    kubelet: Callable[[Doc, Callable[[str], None]], int]
    """Runs a Job's pod: the Job and where its lines go; its exit code."""
    stage: Callable[[Doc], tuple[bool, str]] | None = None
    """Runs a RayJob when it comes to Running: whether it went well, and its message. Without it, the script says."""

    def __init__(self, certificate: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"https://127.0.0.1:{self.server_address[1]}"
        self.objects: dict[str, Doc] = {}
        """By path."""
        self.faults: list[str] = []
        """Of the next requests: a status, `lost` (done and not answered), `down` (neither), `none`."""
        self.forbidden: set[tuple[str, str]] = set()
        """Verbs and resources."""
        self.scripts: dict[str, list[tuple[str, ...]]] = {}
        """By RayJob: its states; a third word is its message. `lasts` stays in the state before."""
        self.schemas: dict[str, Doc] | None = {"RayJob": {}, "RayService": {}}
        """What the definitions know; None where KubeRay is not installed."""
        self.lines: dict[str, list[tuple[str, str]]] = {}
        """By pod: time stamps and lines."""
        self.cut_logs_after = 10**9
        """A log's stream ends after so many lines."""
        self.requests: Counter[str] = Counter()
        """By verb and resource."""
        self.kubelet = lambda job, say: 0
        self.lock = threading.RLock()
        self.versions = itertools.count(1)
        self.stopped = threading.Event()
        self.put("/api/v1/namespaces/raystill", {"kind": "Namespace"})
        self.put("/api/v1/nodes/gpu-0", {"kind": "Node", "metadata": {"labels": NODE}})

    def put(self, path: str, doc: Doc) -> Doc:
        """Store, as a controller does: a new version of it, and a uid where it is new."""
        with self.lock:
            old = self.objects.get(path, {}).get("metadata", {})
            version = str(next(self.versions))
            about = {"name": path.rpartition("/")[2], **doc.get("metadata", {}), "resourceVersion": version}
            about.setdefault("uid", old.get("uid", f"uid-{version}"))
            about.setdefault("creationTimestamp", old.get("creationTimestamp", now()))
            self.objects[path] = {**doc, "metadata": about}
            return self.objects[path]

    def remove(self, path: str) -> None:
        """As somebody else would. A Job takes its pods along."""
        with self.lock:
            gone = self.objects.pop(path)
            for other in [p for p, o in self.objects.items() if o.get("owner") == gone["metadata"]["uid"]]:
                del self.objects[other]

    def of(self, plural: str) -> dict[str, Doc]:
        """Objects of a kind by name."""
        with self.lock:
            return {p.rpartition("/")[2]: o for p, o in self.objects.items() if p.split("/")[-2] == plural}

    def run(self) -> None:
        """The operator and the controllers."""
        seen: dict[str, list[tuple[str, ...]]] = {}
        while not self.stopped.wait(TICK_S):
            with self.lock:
                for path, doc in list(self.objects.items()):
                    kind, uid = path.split("/")[-2], doc["metadata"]["uid"]
                    if kind == "jobs" and uid not in seen:
                        seen[uid] = []
                        threading.Thread(target=self.pod, args=(path, doc), daemon=True).start()
                    elif kind == "rayjobs":
                        steps = seen.setdefault(uid, list(self.scripts.get(doc["metadata"]["name"], GOOD)))
                        self.advance(path, doc, steps)

    def advance(self, path: str, doc: Doc, steps: list[tuple[str, ...]]) -> None:
        """One step of a RayJob's script."""
        if not steps or steps[0][0] == "lasts":
            return
        deployment, job, *message = steps.pop(0)
        status = {"jobDeploymentStatus": deployment, "jobStatus": job, "message": "".join(message)}
        failed = doc.get("status", {}).get("failed", 0) + (deployment == "Retrying")
        self.put(path, {**doc, "status": status | {"failed": failed}})
        if deployment == "Running" and self.stage:
            rest, steps[:] = list(steps), [("lasts",)]
            threading.Thread(target=self.work, args=(doc, steps, rest), daemon=True).start()

    def work(self, doc: Doc, steps: list[tuple[str, ...]], rest: list[tuple[str, ...]]) -> None:
        """Run a stage, then go on: as the script says after success, and to Failed otherwise."""
        assert self.stage
        well, message = self.stage(doc)
        steps[:] = rest if well else [("Failed", "FAILED", message)]

    def pod(self, path: str, job: Doc) -> None:
        """The Job's one pod, and the Job's end."""
        name = f"{job['metadata']['name']}-{job['metadata']['uid'][-4:]}"
        place = f"{path.rsplit('/', 2)[0].replace('/apis/batch/v1', '/api/v1')}/pods/{name}"
        self.lines[name] = []
        template = job["spec"]["template"]
        labels, image = template["metadata"]["labels"], template["spec"]["containers"][0]["image"]

        def set_(state: Doc) -> None:
            status = {"containerStatuses": [{"name": "driver", "image": image, "state": state}]}
            about = {"metadata": {"labels": labels}, "owner": job["metadata"]["uid"], "status": status, "kind": "Pod"}
            with self.lock:
                if self.objects.get(path, {}).get("metadata", {}).get("uid") == job["metadata"]["uid"]:
                    self.put(place, about)

        def say(line: str) -> None:
            with self.lock:
                self.lines[name].append((now(), line))

        set_({"running": {}})
        code = self.kubelet(job, say)
        set_({"terminated": {"exitCode": code}})
        with self.lock:
            if (there := self.objects.get(path)) and there["metadata"]["uid"] == job["metadata"]["uid"]:
                end = {"type": "Failed" if code else "Complete", "status": "True", "message": f"exit code {code}"}
                self.put(path, {**there, "status": {"conditions": [end]}})


class Handler(http.server.BaseHTTPRequestHandler):
    """One request."""

    server: Stub
    protocol_version = "HTTP/1.1"

    def answer(self, status: int, doc: Doc, **headers: str) -> None:
        body = json.dumps(doc).encode()
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), "Content-Type": "application/json", **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def refuse(self, status: int, message: str, **headers: str) -> None:
        self.answer(status, {"kind": "Status", "code": status, "message": message}, **headers)

    def handle_(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        parts = url.path.strip("/").split("/")
        resource = next((part for part in reversed(parts) if part in KINDS), parts[-1])
        fault = self.server.faults.pop(0) if self.server.faults else "none"
        self.server.requests[f"{VERBS[self.command]} {resource}"] += 1
        if fault == "down":
            self.close_connection = True
            return
        if fault.isdecimal():
            self.refuse(int(fault), "too many requests", Retry_After="0")
            return
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.refuse(401, "Unauthorized")
            return
        if fault == "lost":
            self.close_connection = True
            self.wfile = open("/dev/null", "wb")  # noqa: SIM115, PTH123 - the answer goes nowhere
        if url.path in ("/version", "/openapi/v3/apis/ray.io/v1") or "selfsubject" in url.path:
            self.about(url.path, body)
            return
        if (VERBS[self.command], resource) in self.server.forbidden:
            self.refuse(403, f'{resource} is forbidden: user "me" cannot {VERBS[self.command]} resource "{resource}"')
            return
        if parts[-1] == "log":
            self.log_of(parts[-2], query)
            return
        {"GET": self.get, "POST": self.create, "PATCH": self.apply, "DELETE": self.delete}[self.command](
            url.path, query, json.loads(body) if body else {}
        )

    do_GET = do_POST = do_PATCH = do_DELETE = handle_

    def about(self, path: str, body: bytes) -> None:
        if path == "/version":
            self.answer(200, {"gitVersion": "v1.34.1"})
        elif "selfsubject" in path:
            asked = json.loads(body)["spec"]["resourceAttributes"]
            allowed = (asked["verb"], asked["resource"]) not in self.server.forbidden
            self.answer(201, {"status": {"allowed": allowed}})
        elif self.server.schemas is None:
            self.refuse(404, "not found")
        else:
            about = {
                kind: {
                    **schema,
                    "x-kubernetes-group-version-kind": [{"group": "ray.io", "version": "v1", "kind": kind}],
                }
                for kind, schema in self.server.schemas.items()
            }
            self.answer(200, {"components": {"schemas": about}})

    def get(self, path: str, query: dict[str, str], _body: Doc) -> None:
        with self.server.lock:
            found = copy.deepcopy(self.server.objects.get(path))
            under = [o for p, o in self.server.objects.items() if self.within(p, path)]
            listed = [copy.deepcopy(o) for o in under if matches(o, query.get("labelSelector", ""))]
        if found:
            self.answer(200, found)
        elif path.rpartition("/")[2] in KINDS:
            items = [{k: v for k, v in o.items() if k not in ("apiVersion", "kind")} for o in listed]
            self.answer(200, {"kind": "List", "metadata": {"resourceVersion": "1"}, "items": items})
        else:
            self.refuse(404, f'{path.split("/")[-2]} "{path.rpartition("/")[2]}" not found')

    @staticmethod
    def within(path: str, folder: str) -> bool:
        """Whether an object is listed there: in a namespace, or in all of them."""
        group, _, plural = folder.rpartition("/")
        return path.startswith(group) and path.split("/")[-2] == plural

    def create(self, path: str, query: dict[str, str], body: Doc) -> None:
        place = f"{path}/{body['metadata']['name']}"
        with self.server.lock:
            if place in self.server.objects:
                self.refuse(409, f'"{body["metadata"]["name"]}" already exists')
                return
            made = self.server.put(place, body)
        self.answer(201, made)

    def apply(self, path: str, query: dict[str, str], body: Doc) -> None:
        """Server-side apply of whole documents; what a Job or an immutable ConfigMap holds stays."""
        assert self.headers["Content-Type"] == "application/apply-patch+yaml" and query["fieldManager"]
        with self.server.lock:
            there = self.server.objects.get(path)
            fixed = {"Job": "spec", "ConfigMap": "data"}.get(body["kind"], "kind")
            if there and there[fixed] != body[fixed]:
                self.refuse(422, f"{fixed}: field is immutable")
                return
            made = body if query.get("dryRun") == "All" else self.server.put(path, {**(there or {}), **body})
        self.answer(200 if there else 201, made)

    def delete(self, path: str, query: dict[str, str], body: Doc) -> None:
        with self.server.lock:
            there = self.server.objects.get(path)
            if there is None:
                self.refuse(404, "not found")
                return
            if body.get("preconditions", {}).get("uid", there["metadata"]["uid"]) != there["metadata"]["uid"]:
                self.refuse(409, "the UID in the precondition does not match")
                return
            self.server.remove(path)
        self.answer(200, {"kind": "Status", "status": "Success"})

    def log_of(self, pod: str, query: dict[str, str]) -> None:
        """Lines from a second on, until the pod has ended or the stream is cut."""
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        since = query.get("sinceTime", "")[:19]
        sent = 0
        with contextlib.suppress(OSError):
            while True:
                with self.server.lock:
                    lines = [each for each in self.server.lines.get(pod, []) if each[0][:19] >= since]
                    doc = self.server.of("pods").get(
                        pod, {"status": {"containerStatuses": [{"state": {"terminated": {}}}]}}
                    )
                for stamp, line in lines[sent : self.server.cut_logs_after]:
                    self.wfile.write(f"{stamp} {line}\n".encode())
                self.wfile.flush()
                sent = max(sent, len(lines))
                ended = "terminated" in doc["status"]["containerStatuses"][0]["state"]
                if ended or sent >= self.server.cut_logs_after or self.server.stopped.wait(TICK_S):
                    return

    def log_message(self, format: str, *args: Any) -> None:
        pass


def matches(doc: Doc, selector: str) -> bool:
    """Whether a label selector of equalities selects."""
    labels = doc["metadata"].get("labels", {})
    return all(
        labels.get(key) == value for key, _, value in (each.partition("=") for each in selector.split(",") if each)
    )


def now() -> str:
    """With nanoseconds, as the kubelet stamps lines."""
    seconds, rest = divmod(time.time_ns(), 10**9)
    return f"{datetime.datetime.fromtimestamp(seconds, datetime.UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[Stub]:
    """A cluster while the block runs. `folder` then holds its certificate, a kubeconfig, and what a pod has of it."""
    certificate = folder / "ca.crt"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=stub", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "-", "-out", "-"],
        stdout=certificate.open("w"), stderr=subprocess.DEVNULL, check=True,
    )  # fmt: skip
    (folder / "token").write_text(f"{TOKEN}\n")
    stub = Stub(certificate)
    config = {
        "current-context": "stub",
        "contexts": [{"name": "stub", "context": {"cluster": "stub", "user": "me"}}],
        "clusters": [{"name": "stub", "cluster": {"server": stub.url, "certificate-authority": "ca.crt"}}],
        "users": [{"name": "me", "user": {"tokenFile": "token"}}],
    }
    (folder / "kubeconfig").write_text(yaml.safe_dump(config))
    for work in (lambda: stub.serve_forever(0.05), stub.run):
        threading.Thread(target=work, daemon=True).start()
    try:
        yield stub
    finally:
        stub.stopped.set()
        stub.shutdown()
        stub.server_close()
