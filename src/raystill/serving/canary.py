"""Which model answers whom under the public name: shares of users, the same model for the same user."""

import hashlib
import math
import random
from collections.abc import Mapping


def arm(shares: Mapping[str, float], user: str | None) -> str:
    """The model of a user, each with the probability of its share; without a user by chance.

    Shares are above 0. Weighted rendezvous hashing (Schindelhauer and Schomaker, "Weighted distributed hash tables", SPAA
    2005): when shares change, a user moves from one model to another only where that one's share has grown against the first's.
    """
    if user is None:
        return random.choices(list(shares), list(shares.values()))[0]
    return max(shares, key=lambda name: math.log(_unit(f"{name}\n{user}")) / shares[name])


def _unit(text: str) -> float:
    """A number strictly between 0 and 1, the same in every process."""
    return (int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest()) + 0.5) / 2**48
