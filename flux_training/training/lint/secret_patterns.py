"""What keys and passwords look like, according to their issuers' documentation."""

import re
from collections.abc import Iterator

SECRETS = {
    "Hugging Face token": r"\bhf_[A-Za-z0-9]{30,}",
    "OpenAI key": r"\bsk-[A-Za-z0-9_-]{20,}",
    "AWS key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{30,})",
    "SaladCloud key": r"\bsalad_cloud_[A-Za-z0-9_]{20,}",
    "Google key": r"\bAIza[0-9A-Za-z_-]{35}",
    "Slack token": r"\bxox[abprs]-[A-Za-z0-9-]{10,}",
    "Replicate token": r"\br8_[A-Za-z0-9]{30,}",
    "Pulumi token": r"\bpul-[0-9a-f]{40}\b",
    "private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "web token": r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.",
    "password in a URL": r"://[^/\s:@]+:[^/\s:@]+@",
}
_ANY = re.compile("|".join(f"(?P<k{number}>{pattern})" for number, pattern in enumerate(SECRETS.values())))
_KINDS = list(SECRETS)
# Matches a key of train.yml whose name says that its value is a secret, such as `hf_token: …`.
_SECRET_KEY = re.compile(
    r"""^[\s-]*["']?[\w.-]*(?:api[_-]?key|token|passw(?:or)?d|secret(?:[_-]?(?:access)?[_-]?key)?)["']?\s*:\s*["']?(?P<value>[^\s"'#]{8,})""",
    re.IGNORECASE,
)
_HARMLESS = re.compile(r"\$\{|^(true|false|null|none)$|^[\d.]+$", re.IGNORECASE)


def names_a_secret(line: str) -> bool:
    """Whether a line of YAML gives a value to a key such as `hf_token`."""
    match = _SECRET_KEY.match(line)
    return bool(match and not _HARMLESS.search(match["value"]))


def find_secrets(text: str) -> Iterator[tuple[int, str]]:
    """(line, kind) of everything that looks like a secret, without the secret itself."""
    for match in _ANY.finditer(text):
        kind = next(_KINDS[int(name[1:])] for name, value in match.groupdict().items() if value)
        yield text.count("\n", 0, match.start()) + 1, kind


def without_secrets(text: str) -> str:
    return _ANY.sub("(a secret)", text)
