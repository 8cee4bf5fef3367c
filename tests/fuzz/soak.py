"""Four clients on the running app at once: images through the pages' own queue, jobs, and requests that nobody expects.

``python -m tests.fuzz.soak ADDRESS FOLDER PID REQUESTS SEED``: one JSON line that says what came of them. FOLDER is the app's data folder.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

from .values import odd_json, odd_text, odd_value

CLIENTS, PATIENCE = 4, 180  # seconds until an answer counts as none
START = 100  # requests that every part of the app has been used in once; memory is judged from there on
JOB_SHARE, FAULT_SHARE = 0.1, 0.3
PROMPTS = ("a red circle", "a circle <lyco:demo-lora:0.8>", "<lyco:demo-lokr:1> a square <lyco:demo-boft:-0.5>", "<lyco:nothing:1> a cat")


class Client:
    """One program that talks to the app."""

    def __init__(self, address: str, number: int, seed: int) -> None:
        self.address, self.rng, self.session = address, random.Random(f"{seed} {number}"), f"soak{seed}n{number}"
        self.told: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.name = f"soak-{seed}-{number}"

    def ask(self, path: str, data: bytes | None = None, method: str | None = None, **headers: str) -> tuple[int, bytes]:
        request = urllib.request.Request(self.address + path, data, {"Content-Type": "application/json", **headers}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def image(self, generate: int) -> str:
        """Make an image; its prompt, or one of its numbers, may be odd."""
        odd = self.rng.random() < FAULT_SHARE
        prompt = odd_text(self.rng).encode("utf-8", "replace").decode() if odd else self.rng.choice(PROMPTS)
        data: list[Any] = [prompt, "", self.rng.randrange(1000), 2, 64, 64, 2.5, "DDIM"]
        if odd and self.rng.random() < 0.5:
            data[self.rng.randrange(2, 8)] = self.rng.choice((-1, 0, 1e9, None, 3.7))
        body = {"data": data, "fn_index": generate, "session_hash": self.session, "event_data": None}
        status, _ = self.ask("/queue/join", json.dumps(body).encode())
        if status != 200:
            return f"image refused with {status}"
        request = urllib.request.Request(f"{self.address}/queue/data?session_hash={self.session}")
        with urllib.request.urlopen(request, timeout=PATIENCE) as lines:
            for line in lines:
                told = json.loads(line[5:]) if line.startswith(b"data:") else {}
                if told.get("msg") == "process_completed":
                    return "image" if told["success"] else "image failed, said so" if told["output"] else "image failed"
        return "image without an end"

    def job(self, number: int) -> str:
        """Start a job, maybe a wrong one, maybe stop it; wait for its end."""
        options: Any = {"model": "demo-lora", "save_precision": "fp16", "save_to": f"{self.name}-{number}"}
        if self.rng.random() < FAULT_SHARE:
            options[self.rng.choice(("model", "save_precision", "save_to", "x"))] = odd_value(self.rng)
        status, text = self.ask("/lycoris/v1/jobs/convert", json.dumps(options).encode())
        if status != 202:
            return f"job refused with {status}"
        place = f"/lycoris/v1/jobs/{json.loads(text)['id']}"
        if self.rng.random() < 0.2:
            self.ask(place, method="DELETE")
        for _ in range(PATIENCE * 5):
            state = json.loads(self.ask(place)[1])
            if state["status"] in ("done", "failed", "cancelled"):
                return f"job {state['status']}"
            time.sleep(0.2)
        return "job without an end"

    def fault(self) -> str:
        """Send what no page sends."""
        kind = self.rng.randrange(4)
        if kind == 0:
            status, _ = self.ask("/lycoris/v1/jobs/merge", odd_json(self.rng, odd_value(self.rng))[:500_000])
        elif kind == 1:
            status, _ = self.ask("/config", Origin="null")
        elif kind == 2:
            status, _ = self.ask("/lycoris/v1/jobs/" + "x" * self.rng.randrange(1, 3000))
        else:
            try:
                status, _ = self.ask("/lycoris/v1/jobs/merge", b" " * (9 << 20))
            except urllib.error.URLError as error:  # refused before its end: the connection is closed while we still send
                return "fault refused" if isinstance(error.reason, ConnectionError) else f"fault answered with {error}"
        return "fault refused" if 400 <= status < 500 else f"fault answered with {status}"

    def run(self, requests: int, generate: int) -> None:
        """Send so many requests, one after another."""
        for number in range(requests):
            try:
                kind = self.rng.random()
                said = self.job(number) if kind < JOB_SHARE else self.fault() if kind < JOB_SHARE + 0.1 else self.image(generate)
            except Exception as error:  # noqa: BLE001 - what is looked for
                said = "no answer"
                self.wrong.append(f"{type(error).__name__}: {error}")
            self.told[said] += 1


def memory_kib(process: int) -> int:
    """Return what a process holds in memory."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def digests(folder: Path) -> dict[str, str]:
    """Return the hashes of the checkpoints that the app could change."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted((folder / "checkpoints").glob("*"))}


def generate_index(address: str) -> int:
    """Return the number of the event behind the button Generate."""
    config = json.loads(urllib.request.urlopen(f"{address}/config", timeout=PATIENCE).read())
    button = next(one["id"] for one in config["components"] if one["props"].get("elem_id") == "lyco_generate")
    return next(number for number, one in enumerate(config["dependencies"]) if [button, "click"] in [list(t) for t in one["targets"]])


def rounds(requests: int) -> list[int]:
    """Return how many requests each round has: START of them in the first, the others in four that are equal."""
    return [START, *[(requests - START) // 4] * 4]


def main(address: str, folder: Path, process: int, requests: int, seed: int) -> dict[str, Any]:
    """Run the clients in rounds; return what was answered, how memory grew, and what is wrong."""
    generate, before, memory, began = generate_index(address), digests(folder), list[int](), time.monotonic()
    told: Counter[str] = Counter()
    wrong: list[str] = []
    for part, count in enumerate(rounds(requests)):
        clients = [Client(address, number, seed * 10 + part) for number in range(CLIENTS)]
        threads = [threading.Thread(target=client.run, args=(count // CLIENTS, generate)) for client in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for client in clients:
            told.update(client.told)
            wrong += client.wrong
        memory.append(memory_kib(process))
    answered = sum(told.values())
    wrong += [name for name in told if "without an end" in name or "answered with" in name or name == "image failed" or "with 5" in name]
    wrong += ["weights changed"] * (digests(folder) != before) + [str(path) for path in folder.rglob("*.part")]
    slope = (memory[-1] - memory[0]) / 1024 / max(answered - START, 1) * 100
    return {
        "requests": requests, "answered": answered, "outcomes": dict(told), "memory_mib": [round(m / 1024) for m in memory],
        "mib_per_100_requests": round(slope, 2), "wrong": wrong, "seconds": round(time.monotonic() - began),
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))))
