"""The keys that ai-toolkit reads from train.yml (known_keys.json). It silently ignores all others.

They are grouped by section below `config.process[0]`; `[]` stands for each entry of a list. Sections that are missing here
(`optimizer_params`, `network_kwargs`, …) may have any key. They were read from the classes of toolkit/config_modules.py and the
get_conf calls of jobs/BaseJob.py, jobs/ExtensionJob.py, jobs/process/Base*TrainProcess.py and extensions_built_in/sd_trainer/ of
https://github.com/ostris/ai-toolkit at COMMIT (21 August 2026).
"""

import json
from pathlib import Path

_CONTENT = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
COMMIT: str = _CONTENT.pop("commit")
KNOWN_KEYS: dict[str, frozenset[str]] = {name: frozenset(keys) for name, keys in _CONTENT.items()}
# The section "" is the process itself.
KNOWN_KEYS[""] = KNOWN_KEYS.pop("process")
KNOWN_KEYS["first_sample"] = KNOWN_KEYS["sample"]
KNOWN_KEYS["first_sample.samples[]"] = KNOWN_KEYS["sample.samples[]"]
