"""The tools over HTTP: whole jobs, refusals with a sentence, and nobody gets at a file outside of the model folders."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from fastapi.testclient import TestClient
from safetensors.torch import load_file, save_file

from lib_lycoris.hosts.jobs_api import ADDRESS, LARGEST, add_job_routes, local_only, same_site
from lib_lycoris.tools.files.store import ModelFile
from lib_lycoris.tools.jobs.queue import WAITING, Jobs
from lib_lycoris.tools.jobs.service import JobService, plain

MODULE = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
WIDTH = 320


class FolderShelf:
    """Two folders, as a host offers them."""

    def __init__(self, root: Path) -> None:
        self.nets, self.models = root / "networks", root / "models"
        for folder in (self.nets, self.models):
            folder.mkdir()

    def networks(self) -> list[ModelFile]:
        return [ModelFile(path.stem, path) for path in sorted(self.nets.glob("*.safetensors"))]

    def checkpoints(self) -> list[ModelFile]:
        return [ModelFile(path.name, path) for path in sorted(self.models.glob("*.safetensors"))]

    def network_folder(self) -> Path:
        return self.nets

    def checkpoint_folder(self) -> Path:
        return self.models


def write_lora(path: Path, seed: int) -> Path:
    made = torch.Generator().manual_seed(seed)
    up, down = torch.randn(WIDTH, 2, generator=made), torch.randn(2, WIDTH, generator=made)
    save_file({f"{MODULE}.lora_up.weight": up, f"{MODULE}.lora_down.weight": down, f"{MODULE}.alpha": torch.tensor(2.0)}, path)
    return path


@pytest.fixture
def store(tmp_path: Path) -> FolderShelf:
    made = FolderShelf(tmp_path)
    for seed, name in enumerate(("a", "b")):
        write_lora(made.nets / f"{name}.safetensors", seed)
    (tmp_path / "private").mkdir()
    write_lora(tmp_path / "private" / "secret.safetensors", 7)
    return made


@pytest.fixture
def jobs() -> Iterator[Jobs]:
    made = Jobs()
    yield made
    made.close()


@pytest.fixture
def client(store: FolderShelf, jobs: Jobs) -> TestClient:
    app = FastAPI()
    add_job_routes(app, JobService(jobs, store), [local_only, same_site()])
    return TestClient(app, base_url="http://127.0.0.1:7870")


def start(client: TestClient, tool: str, **options: Any) -> Any:
    return client.post(f"{ADDRESS}/{tool}", json=options)


def wait(client: TestClient, job_id: str) -> dict[str, Any]:
    for _ in range(400):
        state: dict[str, Any] = client.get(f"{ADDRESS}/{job_id}").json()
        if state["status"] not in ("waiting", "running"):
            return state
        time.sleep(0.05)
    raise AssertionError(state)


def test_a_whole_job(client: TestClient, store: FolderShelf) -> None:
    began = start(client, "networks_merge", models=["a", "b"], ratios=[1, -0.5], save_to="both")
    assert began.status_code == 202 and began.json()["tool"] == "networks_merge"
    job_id = began.json()["id"]
    state = wait(client, job_id)
    assert state["status"] == "done" and state["error"] is None and state["progress"]["unit"] == "layers"
    result = client.get(f"{ADDRESS}/{job_id}/result")
    assert result.status_code == 200 and result.json()["outputs"] == [str(store.nets / "both.safetensors")]
    assert result.json()["report"]["modules"][0]["rank"] == 4 and "2 networks in one" in result.json()["text"]
    tensors = load_file(store.nets / "both.safetensors")
    up, down = tensors[f"{MODULE}.lora_up.weight"], tensors[f"{MODULE}.lora_down.weight"]
    parts = [load_file(store.nets / f"{name}.safetensors") for name in "ab"]
    expected = sum(s * p[f"{MODULE}.lora_up.weight"] @ p[f"{MODULE}.lora_down.weight"] for s, p in zip((1, -0.5), parts, strict=True))
    scale = float(tensors[f"{MODULE}.alpha"]) / down.shape[0]
    torch.testing.assert_close(scale * up @ down, expected, atol=1e-4, rtol=1e-4)


def test_a_job_can_be_stopped(client: TestClient, store: FolderShelf, jobs: Jobs) -> None:
    jobs.start("networks_merge", {"models": [store.nets / "a.safetensors"], "save_to": store.nets / "x.safetensors"})
    waiting = start(client, "networks_merge", models=["a"], save_to="late").json()
    stopped = client.delete(f"{ADDRESS}/{waiting['id']}")
    assert stopped.status_code == 200
    state = wait(client, waiting["id"])
    assert state["status"] in ("cancelled", "done")
    assert (store.nets / "late.safetensors").exists() == (state["status"] == "done")
    if state["status"] == "cancelled":
        refused = client.get(f"{ADDRESS}/{waiting['id']}/result")
        assert refused.status_code == 409 and "stopped" in refused.json()["detail"]


def test_what_is_not_there_is_404_and_what_fails_is_told(client: TestClient) -> None:
    for answer in (client.get(f"{ADDRESS}/none"), client.delete(f"{ADDRESS}/none"), client.get(f"{ADDRESS}/none/result")):
        assert answer.status_code == 404 and answer.json()["detail"].startswith('there is no job "none"')
    unknown = start(client, "nothing")
    assert unknown.status_code == 404 and "there are merge, networks_merge" in unknown.json()["detail"]
    failing = start(client, "networks_merge", models=["a"], ratios=[0], save_to="zero").json()
    assert wait(client, failing["id"])["status"] == "failed"
    result = client.get(f"{ADDRESS}/{failing['id']}/result")
    assert result.status_code == 409 and "every strength is 0" in result.json()["detail"]


def paths_outside(root: Path) -> list[str]:
    secret = root / "private" / "secret.safetensors"
    return [
        str(secret), "../private/secret.safetensors", "..\\private\\secret.safetensors", "../../etc/passwd", "/etc/passwd",
        f"{root}/networks/../private/secret.safetensors", "link/secret.safetensors", "C:\\Windows\\win.ini", "\\\\host\\share\\x",
        "a\0b", "a.safetensors\0", "file:///etc/passwd", "~/x", ".", "..", "/", "%2e%2e/private/secret.safetensors", "nothing",
    ]  # fmt: skip


def test_nothing_outside_is_read(client: TestClient, store: FolderShelf, tmp_path: Path, jobs: Jobs) -> None:
    (store.nets / "link").symlink_to(tmp_path / "private")
    (store.models / "link").symlink_to(tmp_path / "private")
    for name in paths_outside(tmp_path):
        for tool, options in (
            ("networks_merge", {"models": ["a", name], "save_to": "out"}),
            ("networks_merge", {"models": ["a"], "base_model": name, "save_to": "out"}),
            ("resize", {"model": name, "new_rank": 1, "save_to": "out"}),
            ("resize", {"model": "a", "new_rank": 1, "save_to": "out", "module_ranks": name}),
            ("merge", {"sd_model": name, "models": ["a"], "save_to": "out"}),
            ("undo", {"merged": name, "undo_file": name, "save_to": "out"}),
            ("verify", {"merged": "a", "folders": [name]}),
        ):
            answer = start(client, tool, **options)
            assert answer.status_code == 422, (tool, options, answer.text)
            assert answer.json()["detail"].startswith("there is no ") and "in the folders that are used here" in answer.json()["detail"]
    assert jobs.all() == []


def test_nothing_outside_is_written(client: TestClient, store: FolderShelf, tmp_path: Path, jobs: Jobs) -> None:
    (store.nets / "link").symlink_to(tmp_path / "private")
    before = sorted(tmp_path.rglob("*"))
    for name in (*paths_outside(tmp_path)[:-1], "nul", "", "  ", str(store.models / "out")):
        if name in ("~/x", "%2e%2e/private/secret.safetensors"):  # plain folder names to us, and such folders are not there
            assert start(client, "networks_merge", models=["a"], save_to=name).status_code == 422
            continue
        answer = start(client, "networks_merge", models=["a"], save_to=name)
        assert answer.status_code == 422, (name, answer.text)
    assert jobs.all() == [] and sorted(tmp_path.rglob("*")) == before


def test_an_undo_file_is_called_one(client: TestClient, store: FolderShelf, jobs: Jobs) -> None:
    save_file({"x": torch.zeros(2)}, store.models / "base.safetensors")
    for name in ("x.yaml", "x.py", "x", "../x.undo"):
        answer = start(client, "merge", sd_model="base.safetensors", models=["a"], save_to="merged", undo_file=name)
        assert answer.status_code == 422, name
    assert jobs.all() == []


def test_nothing_is_written_over_unless_asked(client: TestClient, store: FolderShelf) -> None:
    before = (store.nets / "b.safetensors").read_bytes()
    refused = start(client, "networks_merge", models=["a"], save_to="b")
    assert refused.status_code == 409 and refused.json()["detail"] == "b.safetensors is there already; choose another name"
    assert (store.nets / "b.safetensors").read_bytes() == before
    (store.nets / "cut-0001.safetensors").touch()
    assert start(client, "split", model="a", save_to="cut").status_code == 409
    asked = client.post(f"{ADDRESS}/networks_merge?replace=true", json={"models": ["a"], "save_to": "b"})
    assert asked.status_code == 202 and wait(client, asked.json()["id"])["status"] == "done"
    assert (store.nets / "b.safetensors").read_bytes() != before
    itself = client.post(f"{ADDRESS}/networks_merge?replace=true", json={"models": ["a"], "save_to": "a"})
    assert wait(client, itself.json()["id"])["status"] == "failed"


@pytest.mark.parametrize(
    "options, words",
    [
        ({"models": ["a"]}, "needs save_to"),
        ({"models": ["a"], "save_to": "x", "rank": 3}, '"rank" is no option'),
        ({"models": ["a"], "save_to": "x", "dim": "3"}, "dim is '3', but a whole number is expected"),
        ({"models": [3], "save_to": "x"}, "models is 3, but the name of a file is expected"),
        ({"models": ["a"], "save_to": ["x"]}, "save_to is a list"),
        ({"models": ["a"], "save_to": "x", "method": "magic"}, "method is 'magic', but one of"),
        ({"models": "a" * 5000, "save_to": "x"}, "there is no network"),
    ],
)
def test_bad_options_are_a_sentence(client: TestClient, options: dict[str, Any], words: str) -> None:
    answer = start(client, "networks_merge", **options)
    assert answer.status_code == 422 and words in answer.json()["detail"] and len(answer.json()["detail"]) < 400


@pytest.mark.parametrize(
    "number", ["1e999", "NaN", "-Infinity", "1" + "0" * 400, "1" + "0" * 5000, "[[1]]", "true", '"\\ud800"', '"a\\u0000"']
)
@pytest.mark.parametrize("option", ["te", "save_to", "models", "save_precision"])
def test_any_value_is_taken_or_refused_by_a_sentence(client: TestClient, option: str, number: str) -> None:
    body = f'{{"models": ["a"], "save_to": "x", "{option}": {number}}}'
    answer = client.post(f"{ADDRESS}/bake", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422 and isinstance(answer.json()["detail"], str)


@pytest.mark.parametrize(
    "headers", [{"host": "["}, {"host": "127.0.0.1:x"}, {"origin": "http://["}, {"content-type": "\u00ff"}, {"sec-fetch-site": "x" * 5000}]
)
def test_any_header_is_taken_or_refused(client: TestClient, headers: dict[str, str]) -> None:
    encoded = {"content-type": b"application/json", **{name: value.encode("latin-1") for name, value in headers.items()}}
    assert client.post(f"{ADDRESS}/bake", content=b"{}", headers=encoded).status_code in (403, 415)


def test_the_queue_is_bounded(client: TestClient, store: FolderShelf, jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Jobs, "_work", lambda _: None)  # nothing is ever done
    for number in range(WAITING):
        assert start(client, "networks_merge", models=["a"], save_to=f"x{number}").status_code == 202
    refused = start(client, "networks_merge", models=["a"], save_to="one-more")
    assert refused.status_code == 429 and f"{WAITING} jobs are waiting already" in refused.json()["detail"]


def test_errors_name_no_folder(client: TestClient, store: FolderShelf, jobs: Jobs, tmp_path: Path) -> None:
    (store.nets / "bad.safetensors").write_bytes(b"no network")
    state = wait(client, start(client, "resize", model="bad", new_rank=1, save_to="x").json()["id"])
    assert state["status"] == "failed" and "bad" in state["error"] and str(tmp_path) not in state["error"]
    answers = [client.get(f"{ADDRESS}/{state['id']}/result"), start(client, "resize", model=str(tmp_path), new_rank=1, save_to="x")]
    assert [answer.status_code for answer in answers] == [409, 422]
    service = JobService(jobs, store)
    assert service.sentence(f"{store.nets / 'a.safetensors'} is not in {store.models}") == "a.safetensors is not in models"


def test_only_json_is_taken(client: TestClient) -> None:
    address = f"{ADDRESS}/networks_merge"
    body = '{"models": ["a"], "save_to": "x"}'
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        assert client.post(address, content=body, headers={"content-type": kind}).status_code == 415
    headers = {"content-type": "application/json; charset=utf-8"}
    for text in ("", "[]", '"x"', "{", "[" * 100_000):
        assert client.post(address, content=text, headers=headers).status_code == 422
    assert client.post(address, content=b" " * (LARGEST + 1), headers=headers).status_code == 413


def test_pages_of_other_sites_are_refused(client: TestClient, jobs: Jobs) -> None:
    options = {"models": ["a"], "save_to": "x"}
    for headers in (
        {"origin": "http://evil.example"}, {"origin": "null"}, {"origin": "http://127.0.0.1:9999"}, {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"}, {"host": "evil.example", "origin": "http://evil.example"}, {"host": "evil.example:7870"},
        {"host": "127.0.0.1.evil.example"},
    ):  # fmt: skip
        assert client.post(f"{ADDRESS}/networks_merge", json=options, headers=headers).status_code == 403, headers
        assert client.delete(f"{ADDRESS}/x", headers=headers).status_code == 403
        assert client.get(f"{ADDRESS}/x", headers=headers).status_code == 403
    assert jobs.all() == []
    ours = {"origin": "http://127.0.0.1:7870", "sec-fetch-site": "same-origin"}
    for headers in (ours, {"host": "localhost:7870"}, {"host": "[::1]:7870"}):
        assert client.get(f"{ADDRESS}/x", headers=headers).status_code == 404, headers


def test_a_site_that_the_host_allows_is_let_in(store: FolderShelf, jobs: Jobs) -> None:
    app = FastAPI()
    add_job_routes(app, JobService(jobs, store), [same_site(lambda origin: origin == "https://mine.example")])
    client = TestClient(app)
    assert client.get(f"{ADDRESS}/x", headers={"origin": "https://mine.example", "sec-fetch-site": "cross-site"}).status_code == 404
    assert client.get(f"{ADDRESS}/x", headers={"origin": "https://other.example"}).status_code == 403


def test_the_hosts_guard_is_asked_for_every_route(store: FolderShelf, jobs: Jobs) -> None:
    def guard(credentials: HTTPBasicCredentials = Depends(HTTPBasic())) -> None:  # noqa: B008
        if (credentials.username, credentials.password) != ("me", "secret"):
            raise HTTPException(401)

    app = FastAPI()
    add_job_routes(app, JobService(jobs, store), [guard])
    client = TestClient(app)
    options = {"models": ["a"], "save_to": "x"}
    for auth in (None, ("me", "wrong")):
        assert client.post(f"{ADDRESS}/networks_merge", json=options, auth=auth).status_code == 401
        assert client.post(f"{ADDRESS}/nothing", json={}, auth=auth).status_code == 401
        assert client.get(f"{ADDRESS}/x", auth=auth).status_code == 401
        assert client.delete(f"{ADDRESS}/x", auth=auth).status_code == 401
        assert client.get(f"{ADDRESS}/x/result", auth=auth).status_code == 401
    assert jobs.all() == []
    assert client.post(f"{ADDRESS}/networks_merge", json=options, auth=("me", "secret")).status_code == 202


def test_all_of_it_is_documented(client: TestClient, jobs: Jobs) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert {f"{ADDRESS}/{tool}" for tool in jobs.tools} <= set(paths)
    body = paths[f"{ADDRESS}/merge"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["required"] == ["sd_model", "models", "save_to"] and body["additionalProperties"] is False
    assert body["properties"]["ratios"]["items"] == {"type": "number"} and "v2" not in body["properties"]
    assert body["properties"]["save_precision"]["enum"][0] == "fp32"
    assert set(paths[f"{ADDRESS}/{{job_id}}"]) == {"get", "delete"}
    for path in (f"{ADDRESS}/merge", f"{ADDRESS}/{{job_id}}", f"{ADDRESS}/{{job_id}}/result"):
        for call in paths[path].values():
            assert call["summary"] and call["responses"] and call["tags"] == ["LyCORIS tools"]


def test_reports_are_plain_json() -> None:
    assert plain({"a": (1, Path("x")), 2: float("nan"), "c": [float("inf"), 1.5, None, True]}) == {
        "a": [1, "x"], "2": None, "c": [None, 1.5, None, True],
    }  # fmt: skip
