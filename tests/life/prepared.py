"""Done once in the interpreter that imports it, so that the processes which a warm interpreter forks find it done."""

from pulumi_embedded.project.secrets import Crypter, Passphrase

from flux_training.clients.http import trusted_certificates
from tests.life.stacks import PASSPHRASE, SALT

# The key of the tests' stacks (0.1 s), and the certificates (0.02 s).
Crypter(SALT, Passphrase(PASSPHRASE, "the tests", "dev")).check()
trusted_certificates(trust_env=False)
