"""A Struct that many threads decode for the first time at once."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys, threading, types
import msgspec
from penstock.core.typed import prepared

SOURCE = '''
from __future__ import annotations
import msgspec

class Inner(msgspec.Struct):
    x: int | None = None
    y: tuple[str, ...] = ()

class Outer(msgspec.Struct):
    a: dict[str, int] = {}
    b: Inner | None = None
'''
sys.setswitchinterval(1e-6)
for number in range(100):
    module = types.ModuleType(f"m{number}")
    sys.modules[module.__name__] = module
    exec(SOURCE, module.__dict__)
    together = threading.Barrier(4)

    def decode():
        together.wait()
        msgspec.convert({"b": {"x": 1}}, PREPARED(module.Outer))

    threads = [threading.Thread(target=decode) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""


def _exit_code(prepare: str) -> int:
    return subprocess.run([sys.executable, "-c", PROGRAM.replace("PREPARED", prepare)], check=False).returncode


def test_a_prepared_type_is_decoded_by_many_threads_at_once():
    assert _exit_code("prepared") == 0


def test_msgspec_still_needs_it():
    assert _exit_code("") != 0  # if this fails, msgspec has mended it: `prepared` may go
