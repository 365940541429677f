"""The part of Cloudflare's API that R2 needs: buckets, bucket-scoped tokens, temporary credentials. How it behaves: docs/services.md.

The API token stays on this machine. Nodes get keys that are made with it and can do less.
"""

import hashlib
from collections.abc import Sequence
from itertools import count
from typing import Generic, TypeVar
from urllib.parse import quote

import httpx
from pydantic import ConfigDict, Field, SecretStr

from flux_training.clients.errors import NotFound, Service, UncertainOutcome
from flux_training.clients.http import Answer, Http, RetryPolicy

CLOUDFLARE_URL = "https://api.cloudflare.com/client/v4"
MAX_KEY_SECONDS = 604800
# Cloudflare allows 5 to 50 items per page.
TOKENS_PER_PAGE = 50
# The Cloudflare permission group that allows reading, writing and listing the objects of given buckets.
ITEM_WRITE = "Workers R2 Storage Bucket Item Write"


R = TypeVar("R")


class R2Bucket(Answer):
    """An R2 bucket. `location`: the region that Cloudflare chose, such as WEUR."""

    name: str
    location: str = ""


class Token(Answer):
    """An API token. Its id is also an S3 access key id."""

    id: str
    name: str = ""


class Keys(Answer):
    """Credentials for S3. Without `session_token` they do not expire."""

    model_config = ConfigDict(populate_by_name=True)
    access_key_id: str = Field(alias="accessKeyId")
    secret_access_key: SecretStr = Field(alias="secretAccessKey")
    session_token: SecretStr | None = Field(None, alias="sessionToken")


class _Group(Answer):
    id: str
    name: str


class _CreatedToken(Token):
    value: SecretStr


class _Result(Answer, Generic[R]):
    result: R


class Cloudflare:
    """One account. Thread-safe."""

    def __init__(
        self,
        url: str,
        account_id: str,
        api_token: SecretStr,
        transport: httpx.BaseTransport | None = None,
        *,
        retry_policy: RetryPolicy | None = None,
        if_down: str = "try again later",
    ) -> None:
        self._account_id = account_id
        self._account = f"accounts/{quote(account_id, safe='')}"
        refused = (
            f"check the Cloudflare API token and the account id ({account_id}); the token needs Workers R2 Storage: Edit, "
            "and for `storage.credentials: token` Account API Tokens: Edit as well"
        )
        self._http = Http(
            Service("Cloudflare", url, if_refused=refused, if_down=if_down, secrets=(api_token,)),
            {"Authorization": SecretStr(f"Bearer {api_token.get_secret_value()}")},
            transport=transport,
            retry_policy=retry_policy,
        )

    def __repr__(self) -> str:
        return f"<Cloudflare at {self._http.service.host}>"

    def get_bucket(self, name: str) -> R2Bucket | None:
        """The bucket, or None."""
        found = self._http.find(_Result[R2Bucket], self._bucket(name))
        return found.result if found else None

    def create_bucket(self, name: str, location: str | None = None) -> R2Bucket:
        """Create the bucket. Raises Conflict if it exists, UncertainOutcome (look it up)."""
        body = {"name": name} | ({"locationHint": location} if location else {})
        answer = self._http.request("POST", f"{self._account}/r2/buckets", body=body)
        return self._http.parse_body(_Result[R2Bucket], answer).result

    def delete_bucket(self, name: str) -> None:
        """Delete the bucket, if it exists. Raises Conflict if it holds objects."""
        self._http.delete(self._bucket(name))

    def create_token(self, name: str, bucket: str) -> Keys:
        """Keys for the objects of one bucket that do not expire.

        Raises NotFound if the account lacks the permission group, UncertainOutcome (find the token by its name).
        """
        resource = f"com.cloudflare.edge.r2.bucket.{self._account_id}_default_{bucket}"
        policy = {
            "effect": "allow",
            "permission_groups": [{"id": self._permission_group(ITEM_WRITE)}],
            "resources": {resource: "*"},
        }
        answer = self._http.request(
            "POST", f"{self._account}/tokens", body={"name": name, "policies": [policy]}
        )
        made = self._http.parse_body(_Result[_CreatedToken], answer).result
        digest = hashlib.sha256(made.value.get_secret_value().encode()).hexdigest()
        return Keys(access_key_id=made.id, secret_access_key=SecretStr(digest))

    def tokens_with_name(self, name: str) -> list[Token]:
        """The account's tokens of this name."""
        found: list[Token] = []
        for page in count(1):
            params = {"page": page, "per_page": TOKENS_PER_PAGE}
            tokens = self._http.get(_Result[list[Token]], f"{self._account}/tokens", params).result
            found += [token for token in tokens if token.name == name]
            if len(tokens) < TOKENS_PER_PAGE:
                break
        return found

    def has_token(self, token_id: str) -> bool:
        """Whether the token exists."""
        return self._http.find(Answer, self._token(token_id)) is not None

    def delete_token(self, token_id: str) -> None:
        """Revoke the token, if it exists, and the temporary credentials made from it."""
        self._http.delete(self._token(token_id))

    def temporary_keys(
        self, parent_access_key_id: str, bucket: str, prefixes: Sequence[str], seconds: float
    ) -> Keys:
        """Keys that read and write objects below `prefixes` and expire after `seconds`, at most a week."""
        body = {
            "bucket": bucket,
            "parentAccessKeyId": parent_access_key_id,
            "permission": "object-read-write",
            "ttlSeconds": int(seconds),
            "prefixes": list(prefixes),
        }
        answer = self._http.request(
            "POST", f"{self._account}/r2/temp-access-credentials", body=body, repeatable=True
        )
        return self._http.parse_body(_Result[Keys], answer).result

    def replace_tokens(self, name: str, bucket: str) -> Keys:
        """`create_token`, after revoking tokens of this name that a lost answer may have left."""
        for left in self.tokens_with_name(name):
            self.delete_token(left.id)
        try:
            return self.create_token(name, bucket)
        except UncertainOutcome:
            # The value of a token is shown only once, so a token whose answer was lost is useless.
            for left in self.tokens_with_name(name):
                self.delete_token(left.id)
            raise

    def _permission_group(self, name: str) -> str:
        groups = self._http.get(_Result[list[_Group]], f"{self._account}/tokens/permission_groups")
        for group in groups.result:
            if group.name == name:
                return group.id
        raise NotFound(
            f"Cloudflare lists no permission group named {name!r}",
            "",
            "check in Cloudflare's dashboard whether it has been renamed",
        )

    def _bucket(self, name: str) -> str:
        return f"{self._account}/r2/buckets/{quote(name, safe='')}"

    def _token(self, token_id: str) -> str:
        return f"{self._account}/tokens/{quote(token_id, safe='')}"
