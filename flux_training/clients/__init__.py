"""The services we drive: SaladCloud, Kelpie, Cloudflare, object storage. Knows nothing of Pulumi.

Here belongs how a service is asked and what its failures mean; what is wanted of it is decided in training/ and components/.
"""

import sys

# httpx 0.28 imports its own command line (rich, pygments) where these are installed: 45 ms and 6 MB of every program and provider.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]  # what an import that fails leaves there
