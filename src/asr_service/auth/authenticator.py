"""A credential becomes a caller.

Owns how API keys are told from tokens, and how the checks are put together from plain values.
"""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from asr_service.auth import Refused
from asr_service.auth.jwks import JwksKeys, fetcher
from asr_service.auth.keys import PREFIX, KeyFile
from asr_service.auth.tokens import TokenIssuer, TokenVerifier, from_pem_file, from_secret
from asr_service.callers import Caller


@dataclass(frozen=True, slots=True)
class AuthConfig:
    """What callers are checked by. None stands for "not this way"."""

    keys_file: Path | None = None
    secret: str | None = None
    public_key_file: Path | None = None
    jwks_url: str | None = None
    issuer: str | None = None
    audience: str | None = None
    leeway_s: int = 30
    lifetime_s: int = 900


class Authenticator:
    """Checks API keys and tokens."""

    def __init__(self, config: AuthConfig) -> None:
        """Reads the files. Raises AuthUnusable."""
        self._keys = KeyFile(config.keys_file) if config.keys_file is not None else None
        self._jwks = JwksKeys(fetcher(config.jwks_url)) if config.jwks_url is not None else None
        fixed = [from_secret(config.secret)] if config.secret is not None else []
        if config.public_key_file is not None:
            fixed.append(from_pem_file(config.public_key_file))
        self._tokens = TokenVerifier(
            fixed, self._jwks, issuer=config.issuer, audience=config.audience, leeway_s=config.leeway_s
        )
        self.issuer: TokenIssuer | None = None
        """Makes tokens for keys, where there are keys and a secret."""
        if config.secret is not None and self._keys is not None:
            self.issuer = TokenIssuer(
                config.secret, lifetime_s=config.lifetime_s, issuer=config.issuer, audience=config.audience
            )

    def start(self) -> None:
        """Fetch what comes by network."""
        if self._jwks is not None:
            self._jwks.start()

    async def aclose(self) -> None:
        if self._jwks is not None:
            await self._jwks.aclose()

    async def caller(self, credential: str) -> Caller:
        """Who an API key or a token speaks for. Raises Refused, KeysUnavailable."""
        if credential.startswith(PREFIX):
            return (await self.key_holder(credential))[0]
        return await self._tokens.check(credential)

    async def key_holder(self, credential: str) -> tuple[Caller, datetime | None]:
        """Who an API key speaks for, and until when. Raises Refused, for tokens too."""
        if self._keys is None or not credential.startswith(PREFIX):
            raise Refused("malformed", "not an API key, or keys are not taken here")
        entry = await self._keys.check(credential)
        return entry.caller(), entry.expires
