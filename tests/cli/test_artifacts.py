"""The commands that fetch, list, inspect, publish and choose artifacts."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result

from trinity_mlx.artifacts.bundle import open_bundle
from trinity_mlx.artifacts.hub_card import card_of
from trinity_mlx.artifacts.published import source_tensor
from trinity_mlx.cli import main
from trinity_mlx.cli.commands.publish import plan_upload
from trinity_mlx.contracts.artifact import Base, Bundle
from trinity_mlx.files.safetensors import read_float32

from .. import builders
from ..publishing_hub import PublishingHub, running

PROMPT = "What is 17 + 25? Answer briefly."


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRINITY_MLX_CONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("TRINITY_MLX_CACHE", str(tmp_path / "cache"))


def invoke(*arguments: str, text: str | None = None) -> Result:
    return CliRunner().invoke(main, list(arguments), input=text)


def succeed(*arguments: str) -> Result:
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return result


def fail(code: int, *arguments: str, says: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == code, result.output
    assert says in result.stderr
    assert "Traceback" not in result.output


def entries(source: Path, prefix: str) -> list[dict[str, Any]]:
    """Pinned files for everything in ``source``, at home where they lie."""
    paths = sorted(path for path in source.rglob("*") if path.is_file())
    return [
        {
            "path": f"{prefix}/{path.relative_to(source).as_posix()}",
            "size": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "home": str(path),
        }
        for path in paths
    ]


def write_pin(folder: Path, name: str, files: list[dict[str, Any]], **router: Any) -> str:
    base = {"id": "test/tiny", "revision": "r1", "folder": "base"}
    pin = {"schema": "trinity-mlx.pin", "version": 1, "name": name, "summary": "made by a test"}
    path = folder / f"{name}.pin.json"
    path.write_text(json.dumps(pin | {"files": files, "router": {"base": base} | router}))
    return str(path)


@pytest.fixture
def bundle_pin(tmp_path: Path, tiny_base: Base, tiny_bundle: Bundle) -> str:
    """A pin for the tiny base with the tiny bundle, called as the published router is."""
    files = entries(tiny_base.folder, "base") + entries(tiny_bundle.folder, "bundle")
    return write_pin(tmp_path, "sakana", files, bundle="bundle")


def listed() -> dict[tuple[str, str], dict[str, Any]]:
    rows = json.loads(succeed("artifacts", "--json").stdout)["artifacts"]
    return {(row["name"], row["kind"]): row for row in rows}


def test_a_fetch_reports_every_file(bundle_pin: str, tmp_path: Path) -> None:
    found = json.loads(succeed("fetch", "--pin", bundle_pin, "--json").stdout)
    assert set(found) == {"name", "folder", "files"}
    assert {file["status"] for file in found["files"]} == {"fetched"}
    assert found["folder"] == str(tmp_path / "cache" / "fetched" / "sakana")
    again = succeed("fetch", "sakana", "--pin", bundle_pin)
    assert again.stdout.count("present") == len(found["files"])


def test_a_fetched_router_is_what_auto_means(bundle_pin: str) -> None:
    succeed("fetch", "--pin", bundle_pin)
    result = succeed("route", PROMPT, "--json", "--profile", "cpu")
    assert json.loads(result.stdout)["artifact"]["name"] == "tiny"
    assert result.stderr == ""


def test_another_folder_is_remembered(bundle_pin: str, tmp_path: Path) -> None:
    succeed("fetch", "--pin", bundle_pin, "--dest", str(tmp_path / "dest"))
    assert listed()["sakana", "fetched"]["folder"] == str(tmp_path / "dest")
    succeed("route", PROMPT, "--artifact", "sakana", "--profile", "cpu")


def test_a_fetched_file_that_changed_is_refused(bundle_pin: str, tmp_path: Path) -> None:
    succeed("fetch", "--pin", bundle_pin)
    damaged = tmp_path / "cache" / "fetched" / "sakana" / "base" / "tokenizer.json"
    damaged.unlink()
    damaged.write_text("{}")
    fail(4, "route", PROMPT, says="not the pinned file any more")
    assert not listed()["sakana", "fetched"]["verified"]
    succeed("fetch", "--pin", bundle_pin)
    assert listed()["sakana", "fetched"]["verified"]


def test_auto_without_a_fetch_names_nano_and_the_command() -> None:
    from ..builders import skip_without_nano

    skip_without_nano()
    result = succeed("route", PROMPT, "--json")
    assert json.loads(result.stdout)["artifact"]["name"] == "nano"
    assert "trinity-mlx fetch sakana" in result.stderr
    assert result.stderr.count("\n") == 1
    assert succeed("route", PROMPT, "--artifact", "nano").stderr == ""


def test_a_vector_is_built_into_a_bundle_once(tmp_path: Path, tiny_base: Base, tiny_bundle: Bundle) -> None:
    import numpy as np

    adapted = 8 * tiny_base.config.hidden_size + tiny_base.config.hidden_size
    head = read_float32(tiny_bundle.head.tensor)
    vector = tmp_path / "trained" / "vector.npy"
    vector.parent.mkdir()
    offsets = np.random.default_rng(5).normal(0, 0.01, adapted)
    np.save(vector, np.concatenate([offsets, head.ravel()]))
    files = [*entries(tiny_base.folder, "base"), *entries(vector.parent, "v")]
    pin = write_pin(tmp_path, "sakana", files, vector="v/vector.npy")
    succeed("fetch", "--pin", pin)
    fail(4, "inspect", "sakana", says="not built yet")
    first = succeed("route", PROMPT, "--json", "--profile", "cpu")
    assert "this happens once" in first.stderr
    second = succeed("route", PROMPT, "--json", "--profile", "cpu")
    assert second.stderr == ""
    decisions = [json.loads(result.stdout) for result in (first, second)]
    assert decisions[0]["route_hash"] == decisions[1]["route_hash"]
    assert listed()["sakana", "built"]["adapter_ref"] == decisions[0]["artifact"]["adapter_ref"]
    described = json.loads(succeed("inspect", "sakana", "--json").stdout)
    assert described["base"]["revision"] == "r1"
    succeed("artifacts", "rm", "sakana", "--yes")
    assert ("sakana", "built") not in listed()


def test_names_that_are_nothing_are_refused_with_what_to_do() -> None:
    fail(2, "fetch", says="trinity-mlx fetch sakana")
    fail(4, "fetch", "nothing", says="sakana-adapted")
    fail(4, "route", PROMPT, "--artifact", "nothing", says="no artifact 'nothing'")
    fail(4, "route", PROMPT, "--artifact", "sakana", says="trinity-mlx fetch sakana")
    fail(4, "inspect", "nothing", says="no artifact 'nothing'")
    fail(4, "artifacts", "rm", "nothing", "--yes", says="no artifact 'nothing'")
    fail(4, "artifacts", "rm", "nano", "--yes", says="no artifact 'nano'")


def test_a_pin_of_another_name_is_refused(bundle_pin: str) -> None:
    fail(2, "fetch", "sakana-adapted", "--pin", bundle_pin, says="pins 'sakana'")


@pytest.mark.parametrize(("option", "setting"), [(["--offline"], "0"), ([], "1")])
def test_offline_is_honoured(option: list[str], setting: str, tmp_path: Path) -> None:
    environment = os.environ | {
        "HF_HUB_OFFLINE": setting,
        "HF_HOME": str(tmp_path),
        "HF_ENDPOINT": "http://127.0.0.1:1",
    }
    command = [sys.executable, "-m", "trinity_mlx.cli", "fetch", "sakana", *option]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 3
    assert "network is not to be used" in result.stderr
    assert result.stdout == ""


def test_removing_asks_and_takes_no_for_an_answer(bundle_pin: str) -> None:
    succeed("fetch", "--pin", bundle_pin)
    result = invoke("artifacts", "rm", "sakana", text="n\n")
    assert result.exit_code == 2
    assert "nothing was deleted" in result.stderr
    assert invoke("artifacts", "rm", "sakana", text="y\n").exit_code == 0
    assert ("sakana", "fetched") not in listed()


def test_the_list_is_readable(bundle_pin: str) -> None:
    succeed("fetch", "--pin", bundle_pin)
    text = succeed("artifacts").stdout
    assert "sakana" in text
    assert "nano" in text


def test_a_bundle_is_described(tiny_bundle: Bundle) -> None:
    found = json.loads(succeed("inspect", str(tiny_bundle.folder), "--json").stdout)
    assert found["adapter_ref"] == tiny_bundle.adapter.ref
    assert found["agents"] == list(tiny_bundle.head.labels)
    assert found["head"]["shape"] == [10, 64]
    assert {tensor["execution"] for tensor in found["tensors"]} == {"right", "left"}
    assert len(found["tensors"]) == len(tiny_bundle.adapter.entries)
    assert all(file["verified"] for file in found["files"])
    head, *tensors, rest = found["in_published_layout"]
    assert (head["key"], rest["file"]) == ("trinity_router_head", None)
    assert [source_tensor(piece["key"])[0] for piece in tensors] == [each["piece"] for each in tensors]  # type: ignore[index]
    assert {piece["piece"] for piece in tensors} == {entry.source for entry in tiny_bundle.adapter.entries}
    for piece in tensors:
        assert "multiplied into the base's tensor" in piece["how"]
        assert ("[in, out]" in piece["how"]) is piece["key"].startswith("decoder.blocks.")
    text = succeed("inspect", str(tiny_bundle.folder)).stdout
    assert "trinity_router_head" in text
    assert "amber" in text
    assert "model.embed_tokens.weight" in text


def test_a_damaged_bundle_is_neither_described_nor_published(tiny_bundle: Bundle, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(tiny_bundle.folder, damaged)
    with (damaged / "router_head.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    fail(4, "inspect", str(damaged), says="has changed")
    fail(4, "publish", str(damaged), "me/router", "--dry-run", says="has changed")


def test_a_dry_run_lists_what_would_go_up_and_leaves_the_rest(tiny_bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle.folder, folder)
    (folder / "export.log.jsonl").write_text("{}")
    (folder / ".unfinished").write_text("")
    text = succeed("publish", str(folder), "me/router", "--revision", "v1", "--dry-run").stdout
    for name in ("manifest.json", "adapter.safetensors", "router_head.safetensors", "README.md", "tag it v1"):
        assert name in text
    assert "log" not in text
    assert "unfinished" not in text
    assert len(plan_upload(tiny_bundle)) == 4


def uploaded(bundle: Bundle, folder: Path, *signature: tuple[str, str]) -> Path:
    """What publishing ``bundle`` would put into a repository, as a folder."""
    for operation in plan_upload(bundle, *signature):
        content = operation.path_or_fileobj
        place = folder / operation.path_in_repo
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content if isinstance(content, bytes) else Path(str(content)).read_bytes())
    return folder


def test_who_signs_off_stands_in_the_card_and_the_bundle_still_verifies(
    tiny_base: Base, tmp_path: Path, tiny_bundle: Bundle
) -> None:
    vector = tmp_path / "vector.npy"
    np.save(vector, np.random.default_rng(7).normal(0, 0.2, 19 * 64))
    succeed("export", "--base", str(tiny_base.folder), "--vector", str(vector), "--out", str(tmp_path / "out"))
    made = open_bundle(tmp_path / "out")
    before = {path.name: path.read_bytes() for path in made.folder.iterdir() if path.is_file()}
    signed = open_bundle(uploaded(made, tmp_path / "up", ("Ada [L]", "2026-11-21")))
    assert signed.adapter.ref == made.adapter.ref
    assert r"Signed off by Ada \[L\] on 2026-11-21." in (signed.folder / "README.md").read_text()
    assert before == {path.name: path.read_bytes() for path in made.folder.iterdir() if path.is_file()}
    again = open_bundle(uploaded(signed, tmp_path / "again", ("Ada [L]", "2026-11-21")))
    assert (again.folder / "README.md").read_bytes() == (signed.folder / "README.md").read_bytes()
    other = open_bundle(uploaded(tiny_bundle, tmp_path / "short", ("Bo", "2026-11-22")))
    assert "Signed off by Bo on 2026-11-22." in (other.folder / "README.md").read_text()


def test_the_card_has_the_fields_that_the_hub_reads_and_no_figure_that_was_not_measured(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle.folder, folder)
    bundle = replace(open_bundle(folder), base_id="Qwen/Qwen3-0.6B")
    fields = yaml.safe_load(card_of(bundle).split("---\n")[1])
    assert (fields["base_model"], fields["library_name"], fields["metrics"]) == ("Qwen/Qwen3-0.6B", "trinity-mlx", [])
    assert "llm-routing" in fields["tags"]
    assert "model-index" not in fields
    assert "base_model" not in card_of(replace(bundle, base_id="folder: [x")).split("---\n")[1]
    (folder / "report.json").write_text('{"score": {"mean": 0.75}}')
    fields = yaml.safe_load(card_of(bundle).split("---\n")[1])
    assert fields["metrics"] == ["score"]
    assert fields["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.75
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n")
    assert card_of(bundle) == "---\nlicense: mit\n---\n# Mine\n"


@pytest.mark.parametrize("name", ["", "   ", "two\nlines", "x" * 201, "\x1b[2J"])
def test_a_name_that_is_none_signs_nothing(tiny_bundle: Bundle, name: str) -> None:
    fail(2, "publish", str(tiny_bundle.folder), "me/router", "--dry-run", "--signed-off-by", name, says="one line")


@pytest.fixture
def hub() -> Iterator[PublishingHub]:
    with running() as hub:
        yield hub


def publish(hub: PublishingHub, tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "trinity_mlx.cli", "publish", *arguments]
    space = os.environ | hub.environment(tmp_path / "hf")
    return subprocess.run(command, env=space, capture_output=True, text=True, timeout=300, check=False)


def test_a_bundle_is_published_in_one_commit_and_tagged(
    hub: PublishingHub, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    arguments = (str(tiny_bundle.folder), "me/router", "--revision", "v1.0.0", "--private")
    result = publish(hub, tmp_path, *arguments)
    assert result.returncode == 0, result.stderr
    assert "tagged v1.0.0" in result.stdout
    assert set(hub.committed) == {"manifest.json", "adapter.safetensors", "router_head.safetensors", "README.md"}
    assert hub.committed["manifest.json"] == (tiny_bundle.folder / "manifest.json").read_bytes()
    assert b"amber" in hub.committed["README.md"]
    assert [card.encode() for card in hub.validated] == [hub.committed["README.md"]]
    assert (hub.tags, hub.visibility) == (["v1.0.0"], "private")
    again = publish(hub, tmp_path, *arguments)
    assert again.returncode == 2
    assert "already has a revision 'v1.0.0'" in again.stderr


def test_a_hub_that_refuses_is_said_in_a_line(hub: PublishingHub, tiny_bundle: Bundle, tmp_path: Path) -> None:
    result = publish(hub, tmp_path, str(tiny_bundle.folder), "me/other")
    assert result.returncode == 3
    assert "the Hub did not take me/other" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "no address"])
def test_a_hub_that_cannot_be_reached_is_said_in_one_line(tiny_bundle: Bundle, tmp_path: Path, url: str) -> None:
    result = publish(PublishingHub(url), tmp_path, str(tiny_bundle.folder), "me/router")
    assert result.returncode == 3, result.stderr
    assert result.stderr.startswith("error: the Hub did not take me/router: ")
    assert "and the network" in result.stderr


def test_brackets_in_names_are_shown_as_they_are(
    tiny_base: Base, tiny_offsets: dict[str, np.ndarray], tiny_head: np.ndarray, tmp_path: Path
) -> None:
    """A table's markup is written in square brackets too, and a name must neither vanish in it nor break it."""
    names = tuple(f"agent {slot} [/b][red]" for slot in range(len(tiny_head) - 3))
    changes = builders.factored(tiny_base, tiny_offsets)
    folder = builders.write_bundle(
        tmp_path / "made", tiny_base, changes, tiny_head, name="mine [/x] [bold]", agents=names
    ).folder
    base = ("--base", str(tiny_base.folder), "--profile", "cpu")
    for option in ("--show-logits", "--explain"):
        shown = succeed("route", "What?", "--artifact", str(folder), *base, option).stdout
        assert "agent 3 [/b][red]" in shown
        assert "mine [/x] [bold] on cpu" in " ".join(shown.split())
    shown = " ".join(succeed("inspect", str(folder)).stdout.split())
    assert "mine [/x] [bold]" in shown
    assert "transposed to [in, out]" in shown
