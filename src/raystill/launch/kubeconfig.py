"""A client for the cluster that a kubeconfig names, with every way to log in that kubectl has kept.

Files of KUBECONFIG, or ~/.kube/config; a token, a token file, a client certificate, or a command that gives one
(`aws eks get-token`, `gke-gcloud-auth-plugin`).
"""

import base64
import contextlib
import datetime
import json
import os
import ssl
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from raystill.errors import ResourceError

Entry = Mapping[str, Any]
TIMEOUT_S = 30.0
PAIR = {"client-certificate": "clientCertificateData", "client-key": "clientKeyData"}
"""A user's keys for a certificate, and what a program's credential calls them."""


@dataclass(frozen=True)
class Login:
    """Which cluster, by which context, and a client that is logged in there."""

    context: str
    server: str
    client: httpx.Client


def login(context: str | None = None) -> Login:
    """By a context's name, else by the current one. Raises ResourceError where a kubeconfig leads nowhere."""
    found = _read(_files())
    name = context or next((each["current-context"] for each in found if each.get("current-context")), None)
    chosen = _named(found, "contexts", name)
    if name is None or chosen is None:
        known = ", ".join(each["name"] for part in found for each in part.get("contexts") or []) or "none"
        wrong = f"no context '{name}'" if name else "no current context"
        raise ResourceError(f"{wrong} in {_listed()}; there are: {known}; type: raystill … --context NAME")
    cluster = _named(found, "clusters", chosen.get("cluster"))
    user = _named(found, "users", chosen.get("user")) if chosen.get("user") else {}
    if cluster is None or user is None:
        missing = chosen.get("cluster") if cluster is None else chosen.get("user")
        raise ResourceError(f"context '{name}' names '{missing}', which is not in {_listed()}; kubectl config view")
    certificate, token = _credentials(user, cluster, name)
    client = httpx.Client(
        base_url=cluster["server"], verify=_trust(cluster, certificate), timeout=TIMEOUT_S,
        proxy=cluster.get("proxy-url"), trust_env="proxy-url" not in cluster, auth=bearer(token) if token else None,
    )  # fmt: skip
    return Login(name, cluster["server"], client)


def bearer(token: Callable[[], str]) -> Callable[[httpx.Request], httpx.Request]:
    """httpx's `auth` that asks for the token each time: it is renewed meanwhile."""

    def authorized(request: httpx.Request) -> httpx.Request:
        request.headers["Authorization"] = f"Bearer {token()}"
        return request

    return authorized


def _files() -> list[Path]:
    named = [Path(name).expanduser() for name in os.environ.get("KUBECONFIG", "").split(os.pathsep) if name]
    return named or [Path("~/.kube/config").expanduser()]


def _listed() -> str:
    return ", ".join(map(str, _files()))


def _read(files: list[Path]) -> list[dict[str, Any]]:
    """Each file's content, with its relative paths made absolute."""
    found = []
    for file in files:
        try:
            read = yaml.safe_load(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
            raise ResourceError(
                f"{file} cannot be read as a kubeconfig ({type(e).__name__}); kubectl config view"
            ) from e
        if isinstance(read, dict):
            found.append(_absolute(read, file.parent))
    if not found:
        raise ResourceError(
            f"no kubeconfig: {_listed()} is not there; get one as for kubectl, e.g. aws eks update-kubeconfig --name "
            "CLUSTER, or: export KUBECONFIG=FILE"
        )
    return found


def _absolute(read: dict[str, Any], folder: Path) -> dict[str, Any]:
    for part, inner in (("clusters", "cluster"), ("users", "user")):
        for each in read.get(part) or []:
            about = each[inner] = each.get(inner) or {}
            for key in ("certificate-authority", "client-certificate", "client-key", "tokenFile"):
                if key in about:
                    about[key] = str(folder / about[key])
    return read


def _named(found: list[dict[str, Any]], part: str, name: str | None) -> Entry | None:
    """An entry by name; of several files the first that has it counts, as for kubectl."""
    entries = (each for one in found for each in one.get(part) or [] if each["name"] == name)
    return next((each[part.removesuffix("s")] for each in entries), None)


def _credentials(user: Entry, cluster: Entry, context: str) -> tuple[Entry, Callable[[], str] | None]:
    """What holds a client certificate, if anything does, and what gives a token."""
    if "exec" in user:
        command = Command(user["exec"], cluster, context)
        status = command.status()
        pair = {f"{key}-data": _encoded(status.get(name)) for key, name in PAIR.items()}
        return {k: v for k, v in pair.items() if v}, command.token if "token" in status else None
    if "auth-provider" in user:
        raise ResourceError(
            f"context '{context}' logs in by auth-provider, which kubectl has dropped; renew its kubeconfig"
        )
    if "tokenFile" in user:
        file = Path(user["tokenFile"])
        return user, lambda: file.read_text(encoding="utf-8").strip()
    return user, (lambda: str(user["token"])) if "token" in user else None


class Command:
    """A kubeconfig's `exec`: a program that prints a credential, asked again when that has run out."""

    def __init__(self, asked: Entry, cluster: Entry, context: str) -> None:
        self.asked, self.cluster, self.context = asked, cluster, context
        self.known: Entry = {}

    def token(self) -> str:
        """The token that counts now."""
        return str(self.status()["token"])

    def status(self) -> Entry:
        """The credential that counts now. Raises ResourceError when the program gives none."""
        until = self.known.get("expirationTimestamp")
        now = datetime.datetime.now(datetime.UTC)
        if not self.known or (until and datetime.datetime.fromisoformat(until) <= now):
            self.known = self._ask()
        return self.known

    def _ask(self) -> Entry:
        about = {
            "server": self.cluster["server"],
            "certificate-authority-data": self.cluster.get("certificate-authority-data"),
        }
        spec = {"interactive": False} | ({"cluster": about} if self.asked.get("provideClusterInfo") else {})
        info = {"apiVersion": self.asked["apiVersion"], "kind": "ExecCredential", "spec": spec}
        own = {each["name"]: each["value"] for each in self.asked.get("env") or []}
        command = [self.asked["command"], *(self.asked.get("args") or [])]
        try:
            done = subprocess.run(
                command, env=os.environ | own | {"KUBERNETES_EXEC_INFO": json.dumps(info)},
                capture_output=True, text=True, timeout=TIMEOUT_S, check=True,
            )  # fmt: skip
            status: Entry = json.loads(done.stdout)["status"]
        except FileNotFoundError:
            hint = self.asked.get("installHint") or f"install {command[0]}"
            raise ResourceError(
                f"context '{self.context}' logs in by {command[0]}, which is not here; {hint}"
            ) from None
        except (subprocess.SubprocessError, ValueError, KeyError) as e:
            words = (getattr(e, "stderr", None) or type(e).__name__).strip().splitlines()
            raise ResourceError(f"{command[0]} gave no credential for context '{self.context}': {words[-1]}") from None
        return status


def _trust(cluster: Entry, user: Entry) -> ssl.SSLContext:
    """Whom to trust, and who we are."""
    if cluster.get("insecure-skip-tls-verify"):
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    else:
        with _as_file(cluster, "certificate-authority") as authority:
            context = ssl.create_default_context(cafile=authority)
    with _as_file(user, "client-certificate") as certificate, _as_file(user, "client-key") as key:
        if certificate:
            context.load_cert_chain(certificate, key)
    return context


@contextlib.contextmanager
def _as_file(about: Entry, key: str) -> Iterator[str | None]:
    """The path of a PEM file that is named, or held in base64; ssl reads keys from files only."""
    if f"{key}-data" not in about:
        yield about.get(key)
        return
    with tempfile.NamedTemporaryFile(suffix=".pem") as file:  # readable by its owner alone
        file.write(base64.b64decode(about[f"{key}-data"]))
        file.flush()
        yield file.name


def _encoded(pem: str | None) -> str | None:
    return base64.b64encode(pem.encode()).decode() if pem else None
