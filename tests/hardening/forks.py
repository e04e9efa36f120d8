"""Processes of the command line that start in no time: a server that has imported everything, and forks.

A child is a whole process: it ends as any other does, with its own handlers of signals and its own limits.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

SIGNALS = {"kill": signal.SIGKILL, "interrupt": signal.SIGINT}
WRITES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir"}


@dataclass
class Child:
    """A process of the command line; its outputs lie in files."""

    server: Server
    pid: int
    outputs: Path

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Its exit code, or the negative number of the signal that ended it."""
        return int(self.server.ask({"wait": self.pid}))

    @property
    def out(self) -> str:
        return self.outputs.with_suffix(".out").read_text(errors="replace")

    @property
    def err(self) -> str:
        return self.outputs.with_suffix(".err").read_text(errors="replace")


class Server:
    """Starts children; extras: modules that they need, such as torch."""

    def __init__(self, folder: Path, *extras: str) -> None:
        self._folder, self._count = folder, 0
        self._process = subprocess.Popen(
            [sys.executable, __file__, *extras],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},  # threads that wait for each other take longer than the work
        )

    def ask(self, order: dict) -> str:
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()

    def start(self, *words: object, **how: object) -> Child:
        """Run a command.

        patches: {"module:name": value}. send: (signal, n) to itself before the n-th change of a file below `watch`;
        n = 0: to list them in `watch`.events. fsize, memory: bytes that a file may have, that may be allocated
        beyond what is there. user: to become. env: variables. cwd: where. whole: end as Python does, not at once.
        """
        self._count += 1
        outputs = self._folder / f"child-{self._count}"
        pid = int(self.ask({"words": [os.fsdecode(str(word)) for word in words], "outputs": str(outputs), **how}))
        return Child(self, pid, outputs)

    def run(self, *words: object, **how: object) -> tuple[int, str, str]:
        """Run a command to its end: its exit code, and what it said."""
        child = self.start(*words, **how)
        code = child.wait()
        return code, child.out, child.err

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


# --- in the server ---


def serve(extras: list[str]) -> None:
    # not onnxruntime: it starts a thread, and threads do not live on in a child
    names = [f"report.{name}" for name in ("as_json", "html", "markdown", "text", "tuned")]
    names += ["pipeline", "cli", "steps.several", "steps.sweep", "stats.sources"]
    for name in (*(f"pfa_onnx.{name}" for name in names), *extras):
        importlib.import_module(name)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    gc.collect()
    gc.freeze()  # a child that looks for garbage among all that would copy it
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            print(os.waitstatus_to_exitcode(os.waitpid(order["wait"], 0)[1]), flush=True)
            continue
        pid = os.fork()
        if not pid:
            become(order)
            return
        print(pid, flush=True)


def become(order: dict) -> None:
    """Be the command: this ends the process."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, ending in ((1, ".out"), (2, ".err")):
        os.dup2(os.open(order["outputs"] + ending, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.environ.update(order.get("env", {}))
    if "cwd" in order:
        os.chdir(order["cwd"])
    for place, value in order.get("patches", {}).items():
        module, _, name = place.partition(":")
        setattr(importlib.import_module(module), name, value)
    if "send" in order:
        watch(*order["send"], order["watch"])
    if "fsize" in order:
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["fsize"],) * 2)
    if "memory" in order:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + order["memory"],) * 2)
    if "user" in order:
        os.setgroups([])
        os.setresgid(*[order["user"]] * 3)
        os.setresuid(*[order["user"]] * 3)
    from pfa_onnx import __main__ as entry

    inside = entry._run

    def ready() -> int:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # what came too early comes now
        return inside()

    entry._run = ready
    sys.argv = ["pfa-onnx", *order["words"]]
    code = entry.run()
    if order.get("whole"):
        sys.exit(code)
    sys.stdout.flush()
    os._exit(code)  # to let go of all that the server has imported takes longer than most commands


def watch(name: str, when: int, folder: str) -> None:
    """Send this process a signal before the n-th change of a file below a folder."""
    seen: list[str] = []

    def noticed(event: str, args: tuple) -> None:
        if event == "open" and isinstance(args[2], int):
            changes = bool(args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        else:
            changes = event in WRITES
        path = os.fsdecode(args[0]) if changes and isinstance(args[0], str | bytes | os.PathLike) else ""
        if not path.startswith(f"{folder}/"):
            return
        seen.append(event)
        if not when:
            with Path(f"{folder}.events").open("a") as log:
                log.write(f"{event} {Path(path).name}\n")
        elif len(seen) == when:
            signal.raise_signal(SIGNALS[name])

    sys.addaudithook(noticed)


if __name__ == "__main__":
    serve(sys.argv[1:])
