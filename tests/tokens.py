"""An issuer of JSON Web Tokens, good ones and forged ones."""

import json
import time
from base64 import urlsafe_b64encode
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

ISSUER = "https://issuer.example"
AUDIENCE = "runtime"


def base64url(data: bytes | str) -> str:
    return urlsafe_b64encode(data.encode() if isinstance(data, str) else data).rstrip(b"=").decode()


class Issuer:
    """Signs with one key, named `kid`: ES256, or RS256 with `rsa_key`."""

    def __init__(self, kid: str = "k1", *, rsa_key: bool = False) -> None:
        self.kid = kid
        self.algorithm = "RS256" if rsa_key else "ES256"
        self.key: Any = rsa.generate_private_key(65537, 2048) if rsa_key else ec.generate_private_key(ec.SECP256R1())

    @property
    def jwk(self) -> dict[str, Any]:
        """The public key."""
        algorithm = RSAAlgorithm if self.algorithm == "RS256" else ECAlgorithm
        return {
            **json.loads(algorithm.to_jwk(self.key.public_key())),
            "kid": self.kid,
            "alg": self.algorithm,
            "use": "sig",
        }

    @property
    def key_set(self) -> dict[str, Any]:
        return {"keys": [self.jwk]}

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Claims that hold for an hour, longer than all tests take, with `changes`; `None` leaves a claim out."""
        now = int(time.time())
        claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "iat": now, "exp": now + 3_600} | changes
        return {name: value for name, value in claims.items() if value is not None}

    def header(self, **changes: Any) -> dict[str, Any]:
        header = {"alg": self.algorithm, "kid": self.kid, "typ": "JWT"} | changes
        return {name: value for name, value in header.items() if value is not None}

    def token(self, *, header: dict[str, Any] | None = None, **claims: Any) -> str:
        """A token of `claims()`; `header` changes its header."""
        return self.sign(json.dumps(self.header(**(header or {}))), json.dumps(self.claims(**claims)))

    def sign(self, header: str, claims: str) -> str:
        """A correctly signed token of these texts, whatever they are."""
        content = f"{base64url(header)}.{base64url(claims)}"
        signature = jwt.get_algorithm_by_name(self.algorithm).sign(content.encode(), self.key)
        return f"{content}.{base64url(signature)}"
