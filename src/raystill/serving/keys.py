"""Who may ask, and how much in a minute: bearer keys with names, kept as digests alone. No Ray."""

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, Field, SecretStr, TypeAdapter, ValidationError

from raystill import storage
from raystill.errors import RecipeError
from raystill.rates import Bucket

KEY = "RAYSTILL_API_KEY"
"""Environment variable that holds the endpoint's bearer key."""
BURST_S = 60.0
"""A minute's worth at once: 'ten a minute' then reads as people expect it."""
SHAPE = "NAME: {key: at least 16 characters, requests_per_minute: 60, tokens_per_minute: 20000}"


@dataclass(frozen=True)
class Key:
    """One key, as its SHA-256; None is no limit."""

    name: str
    digest: bytes
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None


class _Written(BaseModel, extra="forbid"):
    key: SecretStr = Field(min_length=16)
    requests_per_minute: float | None = Field(None, gt=0)
    tokens_per_minute: float | None = Field(None, gt=0)


_FILE = TypeAdapter(dict[Annotated[str, Field(pattern=r"^[\w.@-]{1,64}$")], _Written])


def known(key: str | None, file: str | None) -> list[Key]:
    """The keys that open an endpoint: one without limits, named as its variable is, and those of a file (local or s3://).

    Raises StorageError for a file that is gone, RecipeError, which never repeats a key, for one that is wrong.
    """
    own = [Key(KEY, digest(key))] if key else []
    return [*own, *(_read(file) if file else ())]


def digest(key: str) -> bytes:
    """What is kept of a key."""
    return hashlib.sha256(key.encode()).digest()


def holder(authorization: bytes, keys: Iterable[Key]) -> Key | None:
    """Whose key an Authorization header holds; the time it takes tells nothing of any key."""
    scheme, _, given = authorization.partition(b" ")
    if scheme.lower() != b"bearer":
        return None
    digest = hashlib.sha256(given).digest()
    found = [key for key in keys if hmac.compare_digest(key.digest, digest)]
    return found[0] if found else None


class Allowance:
    """What is left of one key's minute. A request passes while anything is; what its answer used is taken when it ends."""

    def __init__(self, key: Key) -> None:
        self.requests = Bucket(key.requests_per_minute, BURST_S) if key.requests_per_minute else None
        self.tokens = Bucket(key.tokens_per_minute, BURST_S) if key.tokens_per_minute else None

    def wait_s(self) -> float:
        """0 for a request that may pass, which is then counted, or how long until one may."""
        wanted = [bucket for bucket in (self.requests, self.tokens) if bucket]
        for bucket in wanted:
            bucket.refill(1.0)
        wait_s = max((bucket.wait_s(1.0, 1.0) for bucket in wanted), default=0.0)
        if self.requests and not wait_s:
            self.requests.level -= 1
        return wait_s

    def used(self, tokens: float) -> None:
        """Take what an answer used, into debt if need be."""
        if self.tokens:
            self.tokens.level -= tokens


def _read(file: str) -> list[Key]:
    try:
        written = _FILE.validate_python(yaml.safe_load(storage.read(file)))
    except (yaml.YAMLError, UnicodeDecodeError):
        raise RecipeError(f"serve.keys_file {file} is not YAML; write lines like {SHAPE}") from None
    except ValidationError as e:
        first: Any = e.errors(include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise RecipeError(f"serve.keys_file {file}: {where}: {first['msg']}; write lines like {SHAPE}") from None
    keys = [
        Key(name, digest(w.key.get_secret_value()), w.requests_per_minute, w.tokens_per_minute)
        for name, w in written.items()
    ]
    if not keys or len({key.digest for key in keys}) < len(keys):
        raise RecipeError(
            f"serve.keys_file {file} holds {'one key twice' if keys else 'no key'}; make one with: openssl rand -hex 24"
        )
    return keys
