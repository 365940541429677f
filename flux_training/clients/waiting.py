"""How the clients wait between requests."""

import os
import time

# Multiplies every wait: tests of whole commands set it to a fraction.
SCALE_VARIABLE = "FLUX_WAIT_SCALE"


def pause(seconds: float) -> None:
    """Wait before the next request to a service."""
    time.sleep(seconds * float(os.environ.get(SCALE_VARIABLE, "1")))
