"""A worker without TVM that misbehaves on request: ``python -m scripted_worker``."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from typing import Any

from autotune.measure.protocol import Channel, isolate


class ScriptedWorker:
    def __init__(self, channel: Channel) -> None:
        self.channel = channel

    def echo(self, value: Any) -> dict[str, Any]:
        return {"value": value}

    def environment(self, name: str) -> dict[str, Any]:
        return {"value": os.environ.get(name)}

    def phased_sleep(self, phase: str, seconds: float) -> dict[str, Any]:
        self.channel.phase(phase)
        time.sleep(seconds)
        return {}

    def deaf_to_sigterm(self) -> dict[str, Any]:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return self.phased_sleep("run", 1000)

    def with_child(self) -> dict[str, Any]:
        self._child()
        return self.phased_sleep("run", 1000)

    def crash_with_child(self) -> dict[str, Any]:
        self._child()
        os._exit(7)

    def _child(self) -> None:
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])

    def exit(self, code: int) -> dict[str, Any]:
        os._exit(code)

    def segfault(self) -> dict[str, Any]:
        ctypes.string_at(0)
        raise AssertionError("still alive")

    def raises(self, message: str) -> dict[str, Any]:
        raise RuntimeError(message)

    def prints(self, megabytes: int, last: str) -> dict[str, Any]:
        for stream in (1, 2):
            for _ in range(megabytes):
                os.write(stream, b"x" * (1 << 20))
        print(last, flush=True)
        return {}

    def prints_and_dies(self, megabytes: int, last: str) -> dict[str, Any]:
        self.prints(megabytes, last)
        os._exit(1)

    def sends(self, text: str, times: int = 1) -> dict[str, Any]:
        """Write to the very pipe that answers go through."""
        os.write(self.channel._out.fileno(), text.encode() * times)
        return self.phased_sleep("run", 1000)

    def closes_its_pipe(self) -> dict[str, Any]:
        os.close(self.channel._out.fileno())
        time.sleep(1000)
        return {}


def main() -> None:
    channel = Channel()
    isolate()
    worker = ScriptedWorker(channel)
    names = [name for name in dir(worker) if not name.startswith("_") and name != "channel"]
    channel.serve({name: getattr(worker, name) for name in names})


if __name__ == "__main__":
    main()
