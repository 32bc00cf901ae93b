"""What this machine's CPU can do."""

import platform
import re
import subprocess
import sys
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")  # Linux


def name() -> str:
    """What the CPU is called."""
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip() or platform.processor()
    found = re.search(r"model name\s*:\s*(.+)", _CPUINFO.read_text()) if _CPUINFO.exists() else None
    return found[1] if found else platform.processor() or platform.machine()


def instructions() -> set[str] | None:
    """The instruction sets beyond the basic one, as Linux names them, such as `avx512_bf16`; None on other systems.

    CPUs of one name may differ in them, in speed by a factor of four, and in how they round.
    """
    found = re.search(r"(?:flags|Features)\s*:\s*(.+)", _CPUINFO.read_text()) if _CPUINFO.exists() else None
    return set(found[1].split()) if found else None
