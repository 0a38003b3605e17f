"""`cluster.yaml`, read as `ray up` reads it: no AWS account, no boto3, no network."""

import copy
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray._private.label_utils import validate_node_label_syntax, validate_node_labels
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig

from jobs import drain
from jobs.night.settings import load

ROOT = Path(__file__).parents[2]
FILE = ROOT / "cluster.yaml"
SECRETS = (
    r"\b(AKIA|ASIA)[A-Z0-9]{16}\b",
    r"aws_(access_key_id|secret_access_key|session_token)",
    r"aws_credentials",
    r"PRIVATE KEY",
    r"RAY_AUTH_TOKEN=",
    r"password\W?\s*[:=]",
    r"(?<!sha256:)\b[0-9a-fA-F]{32,}\b",
    r"[A-Za-z0-9+/]{40}",
)
MEGABYTES = {"mb": 1, "gb": 1024}

Config = dict[str, Any]


@pytest.fixture(scope="module")
def raw() -> Config:
    return yaml.safe_load(FILE.read_text())


@pytest.fixture(scope="module")
def prepared(raw: Config) -> Config:
    config = prepare_config(copy.deepcopy(raw))
    validate_config(config)
    return config


def workers(config: Config) -> dict[str, Config]:
    return {name: kind for name, kind in config["available_node_types"].items() if name != config["head_node_type"]}


def is_spot(kind: Config) -> bool:
    return kind["node_config"].get("InstanceMarketOptions", {}).get("MarketType") == "spot"


def pinned(package: str) -> str:
    found = re.search(rf"^{package}==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def python_version() -> str:
    found = re.search(r"Python (\d+\.\d+)", (ROOT / "constraints.txt").read_text())
    assert found is not None
    return found[1]


def test_ray_accepts_the_file_where_boto3_cannot_be_imported() -> None:
    program = (
        "import sys, yaml; sys.modules['boto3'] = sys.modules['botocore'] = None\n"
        "from ray.autoscaler._private.util import prepare_config, validate_config\n"
        f"validate_config(prepare_config(yaml.safe_load(open({str(FILE)!r}))))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr


def test_a_misspelt_setting_would_be_refused(raw: Config) -> None:
    wrong = copy.deepcopy(raw)
    wrong["idle_timeout_minute"] = wrong.pop("idle_timeout_minutes")
    with pytest.raises(Exception, match="idle_timeout_minute"):
        validate_config(prepare_config(wrong))


def test_the_autoscaler_reads_priorities_labels_and_limits_from_it(raw: Config) -> None:
    seen = AutoscalingConfig(copy.deepcopy(raw), skip_content_hash=True).get_node_type_configs()
    assert {name: kind.priority for name, kind in seen.items()} == {
        name: kind.get("priority", 0) for name, kind in raw["available_node_types"].items()
    }
    for name, kind in workers(raw).items():
        assert seen[name].labels == kind["labels"]
        assert (seen[name].min_worker_nodes, seen[name].max_worker_nodes) == (kind["min_workers"], kind["max_workers"])


def test_the_head_runs_no_tasks_and_is_never_spot(prepared: Config) -> None:
    head = prepared["available_node_types"][prepared["head_node_type"]]
    assert head["resources"] == {"CPU": 0}
    assert not is_spot(head)
    assert head["max_workers"] == 0


def test_every_worker_type_says_its_labels_priority_limits_and_gpu(prepared: Config) -> None:
    for kind in workers(prepared).values():
        assert kind["labels"]["market"] == ("spot" if is_spot(kind) else "ondemand")
        validate_node_labels(kind["labels"])
        validate_node_label_syntax(kind["labels"])
        assert isinstance(kind["priority"], int)
        assert 0 <= kind["min_workers"] <= kind["max_workers"] <= prepared["max_workers"]
        assert kind["resources"]["GPU"] == 1
        assert kind["resources"]["CPU"] >= 8  # five to decode and three to read and write, for one GPU


def test_spot_is_tried_first_on_two_kinds_of_machine(prepared: Config) -> None:
    kinds = list(workers(prepared).values())
    spot, ondemand = [k for k in kinds if is_spot(k)], [k for k in kinds if not is_spot(k)]
    assert len({k["node_config"]["InstanceType"] for k in spot}) >= 2
    assert len({k["priority"] for k in spot}) == len(spot)
    assert min(k["priority"] for k in spot) > max(k["priority"] for k in ondemand)
    assert all(k["min_workers"] == 0 for k in spot)


def test_an_on_demand_floor_stands_when_spot_is_dry(prepared: Config) -> None:
    floor = [kind for kind in workers(prepared).values() if not is_spot(kind)]
    assert sum(kind["min_workers"] for kind in floor) >= 1
    assert sum(kind["max_workers"] for kind in floor) > 1  # room for a fallback to ask for more


def test_nodes_come_from_several_zones_and_leave_nothing_to_pay_for(prepared: Config) -> None:
    zones = prepared["provider"]["availability_zone"].split(",")
    assert len(set(zones)) >= 3
    assert all(zone.strip().startswith(prepared["provider"]["region"]) for zone in zones)
    assert prepared["provider"]["cache_stopped_nodes"] is False
    assert prepared["idle_timeout_minutes"] == 5
    for kind in prepared["available_node_types"].values():
        assert all(disk["Ebs"]["DeleteOnTermination"] for disk in kind["node_config"]["BlockDeviceMappings"])


def test_no_default_of_ray_sets_up_software_on_a_node(raw: Config, prepared: Config) -> None:
    for name in ("setup_commands", "head_setup_commands", "worker_setup_commands"):
        assert raw[name] == prepared[name] == []
    assert not re.search(r"nightly[^.]*\.whl", json.dumps(prepared))
    assert "ray-wheels" not in json.dumps(prepared)


def test_the_image_is_pinned_to_the_tested_ray_and_python() -> None:
    text = FILE.read_text()
    version = f"ray{pinned('ray')}-py{python_version().replace('.', '')}"
    image = yaml.safe_load(text)["docker"]["image"]
    assert re.fullmatch(rf"[^\s:]+:[^\s@]*{re.escape(version)}@sha256:\S+", image)
    assert set(re.findall(r"[Rr]ay[ :](\d+\.\d+\.\d+)", text)) == {pinned("ray")}
    assert set(re.findall(r"-py(\d+)", text)) == {python_version().replace(".", "")}
    assert set(re.findall(r"Python (\d+\.\d+)", text)) == {python_version()}


def test_each_node_answers_only_to_the_token_and_to_imds_v2(prepared: Config) -> None:
    assert "--env=RAY_AUTH_MODE=token" in prepared["docker"]["run_options"]
    assert prepared["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"
    assert any("--dashboard-host=127.0.0.1" in command for command in prepared["head_start_ray_commands"])
    for kind in prepared["available_node_types"].values():
        assert kind["node_config"]["MetadataOptions"] == {"HttpTokens": "required", "HttpPutResponseHopLimit": 2}


def test_no_node_falls_back_on_rays_wide_defaults(prepared: Config) -> None:
    head = prepared["available_node_types"][prepared["head_node_type"]]["node_config"]["IamInstanceProfile"]
    for kind in prepared["available_node_types"].values():
        assert kind["node_config"]["SecurityGroupIds"]
        assert kind["node_config"]["ImageId"]
        assert list(kind["node_config"]["IamInstanceProfile"]) == ["Name"]
    assert all(kind["node_config"]["IamInstanceProfile"] != head for kind in workers(prepared).values())


def test_shared_memory_holds_the_object_store_and_files_may_be_many(prepared: Config) -> None:
    docker = prepared["docker"]
    for role in ("head", "worker"):
        start = " ".join(prepared[f"{role}_start_ray_commands"])
        size = re.search(r"--shm-size=(\d+)([mg]b)", " ".join(docker[f"{role}_run_options"]))
        store = re.search(r"--object-store-memory=(\d+)", start)
        assert size is not None
        assert store is not None
        assert int(size[1]) * MEGABYTES[size[2]] * 2**20 >= 1.05 * int(store[1])
        assert re.search(r"ulimit -n (\d+);", start)[1] == "65536"
    assert "--ulimit=nofile=65536:65536" in docker["run_options"]


@pytest.mark.parametrize("pattern", SECRETS)
def test_the_file_holds_no_credentials(pattern: str) -> None:
    assert re.search(pattern, FILE.read_text()) is None


@pytest.mark.parametrize("example", ["AKIAIOSFODNN7EXAMPLE", "aws_secret_access_key: x", "password: x", "0123456789abcdef" * 2])
def test_a_credential_would_be_found(example: str) -> None:
    assert any(re.search(pattern, f"key: {example}\n") for pattern in SECRETS)


def test_what_a_user_must_fill_in_is_marked() -> None:
    lines = FILE.read_text().splitlines()
    for number, line in enumerate(lines):
        if re.search(r"FILL_IN|123456789012|^ +(region|availability_zone|IamInstanceProfile):", line.split(" #")[0]):
            near = "\n".join(lines[max(0, number - 6) : number + 1])
            assert "FILL IN" in near, f"line {number + 1}: {line}"


def test_the_submission_in_its_head_comment_is_one_the_job_understands() -> None:
    comment = "\n".join(line.removeprefix("#").strip() for line in FILE.read_text().splitlines() if line.startswith("#"))
    command = shlex.split(comment.replace("\\\n", " ").partition("ray job submit ")[2].splitlines()[0])
    entrypoint = command[command.index("--") + 1 :]
    assert entrypoint[:4] == ["python", "-m", "jobs.nightly", "nightly.yaml"]
    cluster = yaml.safe_load(FILE.read_text())
    config = load(str(ROOT / cluster["file_mounts"]["/home/ray/nightly.yaml"]), entrypoint[4:])
    assert config.workers.gpus == 1
    assert config.workers.most == cluster["max_workers"]
    assert config.fallback is not None
    ondemand = [kind for kind in workers(cluster).values() if kind["labels"].items() >= config.fallback.selector.items()]
    assert ondemand
    assert not any(map(is_spot, ondemand))
    assert config.fallback.most <= sum(kind["max_workers"] for kind in ondemand)
    assert config.prices.nodes.keys() >= cluster["available_node_types"].keys()
    for kind in workers(cluster).values():
        assert config.workers.cpus <= kind["resources"]["CPU"]
        assert all(kind["resources"][name] >= most for name, most in config.fallback.bundle.items())


@pytest.mark.parametrize("name", ["cluster.yaml", "docs/clusters.md"])
def test_where_the_commands_are_shown_the_cluster_goes_down_after_a_submission_that_waits(name: str) -> None:
    text = (ROOT / name).read_text().replace("\\\n", " ")
    up, submit, down = (text.index(word) for word in ("ray up -y cluster.yaml", "ray job submit --address", "ray down -y"))
    assert up < submit < down
    assert "--no-wait" not in text[submit : text.index("\n", submit)]
    assert "until" in text  # the head and the floor stay until then


def test_every_worker_runs_the_drain_agent(prepared: Config) -> None:
    [command] = [command for command in prepared["worker_start_ray_commands"] if "jobs.drain" in command]
    assert command.endswith("&")  # `ray up` waits for what is in the foreground
    words = shlex.split(command.split(">")[0])
    assert drain._parser().parse_args(words[words.index("jobs.drain") + 1 :]).address == "$RAY_HEAD_IP:6379"
    assert prepared["worker_start_ray_commands"].index(command) == 2  # after the node has joined


def test_the_file_stays_short() -> None:
    assert len(FILE.read_text().splitlines()) <= 150
