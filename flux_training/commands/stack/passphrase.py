"""The passphrase of local stacks, which have no secret to protect but need one all the same: it is empty.

Until version 0.2 it was `local-cloud`. Stacks that were made with it still open, and the state of `dev` changes over.
"""

import base64
import gzip
from pathlib import Path

import yaml

from flux_training.commands.stack.file import stack_path
from flux_training.commands.stack.project import project_name
from flux_training.commands.stack.yaml_file import load_yaml

FORMER_PASSPHRASE = "local-cloud"  # noqa: S105 - protects nothing
# The salt in Pulumi.dev.yaml until version 0.2.
FORMER_SALT = "v1:c+eT43DbY8c=:v1:kii5LWv9Dn1xUIzs:frhFHoRZkpIT2HP1ndRNbpX6E5zeIQ=="
CURRENT_SALT = "v1:Vs8k6IWrwcU=:v1:Gu8G1/ozi9ZoFJOK:5fROpR8+Cgg7gJ5PL8SMoyt1lwoPbw=="
# The parameters of Pulumi's passphrase provider: iterations of PBKDF2, bytes of the key, and the text that is encrypted behind
# each salt.
ROUNDS, KEY_BYTES, PROOF = 1_000_000, 32, b"pulumi"


def local_passphrase(root: Path, stack: str) -> str:
    """The passphrase that opens the stack's configuration, or its state as long as that has the former salt."""
    if has_former_salt(root, stack):
        return FORMER_PASSPHRASE
    return FORMER_PASSPHRASE if _opens(salt_of_file(root, stack), FORMER_PASSPHRASE) else ""


def has_known_salt(root: Path, stack: str) -> bool:
    """Whether the stack file has the salt that it came with, so that its passphrase is known. False if the user has set another."""
    return salt_of_file(root, stack) in (CURRENT_SALT, FORMER_SALT)


def has_former_salt(root: Path, stack: str) -> bool:
    """Whether the state in .pulumi/ has the salt of the former passphrase. False for states elsewhere."""
    state = root / ".pulumi/stacks" / project_name(root) / f"{stack}.json"
    packed = state.with_name(f"{state.name}.gz")
    try:
        text = gzip.decompress(packed.read_bytes()) if packed.exists() else state.read_bytes()
    except (OSError, EOFError):
        return False
    return FORMER_SALT.encode() in text


def salt_of_file(root: Path, stack: str) -> str:
    """The `encryptionsalt`; empty if there is none. Whether the file is valid is checked elsewhere."""
    try:
        document = load_yaml(stack_path(root, stack).read_text(encoding="utf-8-sig"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        return ""
    return str(document.get("encryptionsalt") or "") if isinstance(document, dict) else ""


def _opens(salt: str, passphrase: str) -> bool:
    """Whether the passphrase belongs to this `encryptionsalt` (v1:salt:v1:nonce:proof). Takes half a second."""
    # Both salts that Pulumi.dev.yaml has had are known, so no key needs to be derived for them.
    if salt in ("", FORMER_SALT, CURRENT_SALT):
        return salt == FORMER_SALT
    # Imported here because only stacks with other salts need it.
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

    try:
        _, raw, _, nonce, proof = map(base64.b64decode, salt.replace("v1", "").split(":"))
        key = PBKDF2HMAC(hashes.SHA256(), KEY_BYTES, raw, ROUNDS).derive(passphrase.encode())
        return AESGCM(key).decrypt(nonce, proof, None) == PROOF
    except (ValueError, InvalidTag):
        return False
