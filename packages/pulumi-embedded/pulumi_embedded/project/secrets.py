"""The passphrase secrets provider, with the same keys and the same format as in the Pulumi CLI.

Key: PBKDF2-HMAC-SHA256 with 1,000,000 rounds, 8 bytes of salt, 32 bytes long. Encryption: AES-256-GCM with a nonce of
12 bytes, the tag appended, no associated data. A secret is stored as `v1:base64(nonce):base64(ciphertext)`. A stack's
`encryptionsalt` is `v1:base64(salt):` and the encrypted text "pulumi", which is used to check the passphrase.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import functools
import getpass
import os
import sys
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

from pulumi_embedded.errors import EngineError

_ROUNDS: Final = 1_000_000
_PROOF: Final = "pulumi"
_VARIABLE: Final = "PULUMI_CONFIG_PASSPHRASE"
_FILE_VARIABLE: Final = "PULUMI_CONFIG_PASSPHRASE_FILE"
# With this command, the passphrase does not appear in the shell's history.
_SET: Final = f"`read -rs {_VARIABLE} && export {_VARIABLE}`"


@dataclass(frozen=True)
class Passphrase:
    """A stack's passphrase, and where it came from, in words."""

    text: str = field(repr=False)
    source: str
    stack: str


def read_passphrase(stack: str, salt: str = "") -> Passphrase:
    """The passphrase from the environment; otherwise the empty one if it fits the salt; otherwise, on a terminal, the user's.

    Raises EngineError if there is none.
    """
    value = os.environ.get(_VARIABLE)
    if value is not None:
        return Passphrase(value, _VARIABLE if value else f"{_VARIABLE} (it is set, but empty)", stack)
    file = os.environ.get(_FILE_VARIABLE)
    if file:
        return Passphrase(_read_file(file, stack), f"{_FILE_VARIABLE} ({file})", stack)
    empty = Passphrase("", "the default, which is empty", stack)
    if salt and _fits(salt, empty):
        return empty
    if sys.stdin.isatty():
        try:
            return Passphrase(
                getpass.getpass(f"Enter the passphrase of stack {stack}: "), "the terminal", stack
            )
        except EOFError:
            raise EngineError(f"no passphrase of stack {stack} was given") from None
    raise EngineError(
        f"stack {stack} needs a passphrase, but neither {_VARIABLE} nor {_FILE_VARIABLE} is set; fix: {_SET}"
    )


def _read_file(file: str, stack: str) -> str:
    try:
        return Path(file).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        what = f"the passphrase of stack {stack} cannot be read from {_FILE_VARIABLE} ({file}): {error}"
        raise EngineError(f"{what}; fix: name a file that contains it, or unset {_FILE_VARIABLE}") from None


class Crypter:
    """Encrypts and decrypts with a stack's key. A thread derives the key, which takes up to a second."""

    def __init__(self, salt: str, phrase: Passphrase) -> None:
        self.salt = salt
        self._cipher: Future[AESGCM] = Future()
        threading.Thread(target=self._derive, args=(phrase,), daemon=True, name="key derivation").start()

    @classmethod
    def new(cls, phrase: Passphrase) -> Crypter:
        """A crypter with a new salt."""
        salt = os.urandom(8)
        cipher = AESGCM(_derive_key(phrase.text, salt))
        text = f"v1:{base64.b64encode(salt).decode()}:{_encrypt(cipher, _PROOF)}"
        return cls(text, phrase)

    def encrypt(self, text: str) -> str:
        """The secret as it is stored."""
        return _encrypt(self._cipher.result(), text)

    def decrypt(self, secret: str) -> str:
        """The plain text. Raises EngineError if the secret is damaged or was encrypted with another key."""
        return _decrypt(self._cipher.result(), secret)

    def check(self) -> None:
        """Wait for the key. Raises EngineError if the passphrase is wrong or the salt invalid."""
        self._cipher.result()

    def _derive(self, phrase: Passphrase) -> None:
        try:
            self._cipher.set_result(_derive_cipher(self.salt, phrase))
        except EngineError as error:
            self._cipher.set_exception(error)


def _fits(salt: str, phrase: Passphrase) -> bool:
    try:
        _derive_cipher(salt, phrase)
    except EngineError:
        return False
    return True


def _derive_cipher(encryption_salt: str, phrase: Passphrase) -> AESGCM:
    try:
        version, salt, proof = encryption_salt.split(":", 2)
        if version != "v1":
            raise ValueError(version)
        raw = base64.b64decode(salt, validate=True)
    except (ValueError, binascii.Error):
        raise EngineError(
            f"the encryptionsalt of stack {phrase.stack}, {encryption_salt!r}, does not have the form v1:salt:proof"
        ) from None
    cipher = AESGCM(_derive_key(phrase.text, raw))
    with contextlib.suppress(EngineError):
        if _decrypt(cipher, proof) == _PROOF:
            return cipher
    raise EngineError(
        f"incorrect passphrase for stack {phrase.stack}: the one from {phrase.source} does not decrypt its secrets; "
        f"fix: {_SET} with the passphrase that the stack was created with, or unset the variable if it belongs to another stack"
    )


@functools.cache
def _derive_key(phrase: str, salt: bytes) -> bytes:
    return PBKDF2HMAC(hashes.SHA256(), 32, salt, _ROUNDS).derive(phrase.encode())


def _encrypt(cipher: AESGCM, text: str) -> str:
    nonce = os.urandom(12)
    sealed = cipher.encrypt(nonce, text.encode(), None)
    return f"v1:{base64.b64encode(nonce).decode()}:{base64.b64encode(sealed).decode()}"


def _decrypt(cipher: AESGCM, secret: str) -> str:
    try:
        version, nonce, sealed = secret.split(":")
        if version != "v1":
            raise ValueError(version)
        return cipher.decrypt(base64.b64decode(nonce), base64.b64decode(sealed), None).decode()
    except (ValueError, binascii.Error, InvalidTag):
        raise EngineError(
            "a secret could not be decrypted: it is damaged, or was encrypted for another stack"
        ) from None
