"""What every verb does with its result."""

import json
import sys
from typing import Any


def print_json(value: Any) -> None:
    """JSON to stdout, in the documented key order."""
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")
