"""The manifests of `docs/deploy/`: each is read by what will read it, or checked against the schema that will be applied.

KubeRay's CRDs are not part of any package. Where CNNBATCH_KUBERAY_CRDS names a folder that has them
(``ray-operator/config/crd/bases`` of a KubeRay checkout), the RayJob is checked against its schema too.
"""

import ast
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from cnnbatch.job_options import job_parser
from cnnbatch.serve.command import TOKEN_VARIABLE
from jobs.night.settings import NightlyConfig, load

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "docs/deploy"
KUBERNETES = "1.34"
CRDS = os.environ.get("CNNBATCH_KUBERAY_CRDS")

Manifest = dict[str, Any]


def documents(name: str) -> list[Manifest]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


@pytest.fixture(scope="module")
def rayjob() -> Manifest:
    [found] = documents("rayjob.yaml")
    return found


@pytest.fixture(scope="module")
def cronjob() -> Manifest:
    [found] = [one for one in documents("kuberay.yaml") if one["kind"] == "CronJob"]
    return found


@pytest.fixture(scope="module")
def config() -> NightlyConfig:
    return load(str(DEPLOY / "nightly.yaml"))


def pod_specs(rayjob: Manifest) -> Iterator[Manifest]:
    cluster = rayjob["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        yield group["template"]["spec"]


def check_entrypoint(words: list[str]) -> None:
    """What a scheduler starts is a command that `jobs.nightly` understands."""
    at = words.index("jobs.nightly")
    assert words[at - 1] == "-m"
    job_parser("nightly").parse_args(words[at + 1 :])


def test_the_configuration_of_the_examples_is_one_that_works(config: NightlyConfig) -> None:
    assert len(config.archives) == 2
    assert config.webhook_variable == "NIGHTLY_WEBHOOK"


MANIFESTS = [*documents("kuberay.yaml"), *documents("serve.yaml")]


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda manifest: f"{manifest['kind']}-{manifest['metadata']['name']}")
def test_what_is_of_kubernetes_is_valid_by_its_schema(manifest: Manifest) -> None:
    kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


def test_the_pods_of_the_rayjob_are_valid_by_the_schema_of_kubernetes(rayjob: Manifest) -> None:
    for number, spec in enumerate(pod_specs(rayjob)):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"p{number}"}, "spec": spec}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


@pytest.mark.skipif(CRDS is None, reason="CNNBATCH_KUBERAY_CRDS names no folder with KubeRay's CRDs")
def test_the_rayjob_is_valid_by_kuberays_schema_and_a_misspelt_field_would_not_be(rayjob: Manifest) -> None:
    crd = yaml.load((Path(str(CRDS)) / "ray.io_rayjobs.yaml").read_text(), Loader=yaml.CSafeLoader)
    [version] = [version for version in crd["spec"]["versions"] if version["name"] == rayjob["apiVersion"].split("/")[1]]
    schema = version["schema"]["openAPIV3Schema"]
    close(schema)
    schema["properties"]["metadata"] = {"type": "object"}
    jsonschema.validate(rayjob, schema)
    with pytest.raises(jsonschema.ValidationError, match="backofLimit"):
        jsonschema.validate(rayjob | {"spec": rayjob["spec"] | {"backofLimit": 1}}, schema)


def close(schema: object) -> None:
    """Fields that the schema does not name are refused, as `kubectl --validate=strict` does."""
    if isinstance(schema, dict):
        if schema.get("x-kubernetes-int-or-string"):
            schema.pop("type", None)
            schema.pop("anyOf", None)
        if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
    for part in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        close(part)


def test_one_night_at_a_time_and_no_attempts_that_overlap(cronjob: Manifest, rayjob: Manifest) -> None:
    assert cronjob["spec"]["concurrencyPolicy"] == "Forbid"
    assert cronjob["spec"]["jobTemplate"]["spec"]["backoffLimit"] == 0
    spec = rayjob["spec"]
    assert spec["backoffLimit"] == spec["submitterConfig"]["backoffLimit"] == 0
    assert spec["jobId"] == rayjob["metadata"]["name"]
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["activeDeadlineSeconds"] < cronjob["spec"]["jobTemplate"]["spec"]["activeDeadlineSeconds"] < 86400
    check_entrypoint(shlex.split(spec["entrypoint"]))


def test_the_cluster_of_the_rayjob_is_spot_first_with_an_on_demand_floor(rayjob: Manifest, config: NightlyConfig) -> None:
    cluster = rayjob["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["autoscalerOptions"]["version"] == "v2"
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    groups = {group["labels"]["market"]: group for group in cluster["workerGroupSpecs"]}
    assert groups["spot"]["minReplicas"] == 0
    assert groups["ondemand"]["minReplicas"] >= 1
    assert config.fallback is not None
    assert config.fallback.selector == groups["ondemand"]["labels"]
    assert config.fallback.most <= groups["ondemand"]["maxReplicas"]
    grace = groups["spot"]["template"]["spec"]["terminationGracePeriodSeconds"]
    [ray] = groups["spot"]["template"]["spec"]["containers"]
    drain = {variable["name"]: variable["value"] for variable in ray["env"]}["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"]
    assert int(drain) < grace < 120


def test_every_kind_of_node_of_either_cluster_has_its_price_and_no_other_row_is_there(
    rayjob: Manifest, config: NightlyConfig
) -> None:
    """KubeRay labels each node with its group's name, and the head's group is always called ``headgroup``."""
    groups = {group["groupName"] for group in rayjob["spec"]["rayClusterSpec"]["workerGroupSpecs"]} | {"headgroup"}
    types = yaml.safe_load((ROOT / "cluster.yaml").read_text())["available_node_types"].keys()
    assert config.prices.label == "ray.io/node-group"
    assert config.prices.nodes.keys() == groups | types


def test_a_worker_and_a_fallback_bundle_fit_on_every_node_of_the_rayjob(rayjob: Manifest, config: NightlyConfig) -> None:
    assert config.fallback is not None
    for group in rayjob["spec"]["rayClusterSpec"]["workerGroupSpecs"]:
        [container] = group["template"]["spec"]["containers"]
        has = {"CPU": float(container["resources"]["requests"]["cpu"]), "GPU": 1.0}
        assert config.workers.cpus <= has["CPU"]
        assert all(has[name] >= most for name, most in config.fallback.bundle.items())


def test_every_image_is_pinned_and_of_the_tested_ray(rayjob: Manifest) -> None:
    ray = pinned("ray")
    assert rayjob["spec"]["rayClusterSpec"]["rayVersion"] == ray
    for spec in pod_specs(rayjob):
        assert re.fullmatch(rf"[^\s:]+:\S*ray{re.escape(ray)}\S*@sha256:\S+", spec["containers"][0]["image"])


def pinned(package: str) -> str:
    found = re.search(rf"^{package}==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


KUBECTL = """#!/bin/sh
# Keeps RayJobs as files below $STATE: one that was asked for three times is done.
echo "$@" >> "$STATE/calls"
case "$*" in "get rayjobs "*) for old in "$STATE"/cnnbatch-nightly-*; do echo "rayjob.ray.io/${old##*/}"; done; exit;; esac
case "$1" in
  delete) rm "$STATE/${2#rayjob.ray.io/}" ;;
  create) name="$(sed -n '/^metadata/s/.*{name: \\([^,]*\\),.*/\\1/p' "$3")"; [ ! -e "$STATE/$name" ] && echo >"$STATE/$name";;
  get) file="$STATE/${2#rayjob/}"; [ -e "$file" ] || exit 1
       case "$*" in *jobDeploymentStatus*)
         echo x >> "$file"
         [ "$(wc -l < "$file")" -lt 4 ] && echo Running || echo "$END" ;;
       esac ;;
esac
"""


@pytest.mark.parametrize(("end", "code"), [("Complete", 0), ("Failed", 1), ("ValidationFailed", 1)])
def test_the_cronjob_creates_one_rayjob_a_day_and_waits_for_its_end(
    cronjob: Manifest, tmp_path: Path, end: str, code: int
) -> None:
    [container] = cronjob["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    kubectl = tmp_path / "bin/kubectl"
    kubectl.parent.mkdir()
    kubectl.write_text(KUBECTL)
    kubectl.chmod(kubectl.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "state").mkdir()
    for day in range(1, 21):
        (tmp_path / f"state/cnnbatch-nightly-202001{day:02}").touch()
    [script] = container["args"]
    script = script.replace("/tmp/", f"{tmp_path}/").replace("/config/", f"{DEPLOY}/").replace("sleep 30", "sleep 0.01")
    environment = {"PATH": f"{kubectl.parent}:/usr/bin:/bin", "STATE": str(tmp_path / "state"), "END": end}
    for _ in range(2):  # a second start finds the RayJob of the day
        done = subprocess.run(
            ["/bin/sh", "-ec", script], env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == code, done.stderr
    calls = (tmp_path / "state/calls").read_text().splitlines()
    assert sum(call.startswith("create") for call in calls) == 1
    made = yaml.safe_load((tmp_path / "rayjob.yaml").read_text())
    assert re.fullmatch(r"cnnbatch-nightly-\d{8}", made["metadata"]["name"])
    assert made["spec"]["jobId"] == made["metadata"]["name"]
    kept = sorted(path.name for path in (tmp_path / "state").glob("cnnbatch-nightly-*"))
    assert kept == [*(f"cnnbatch-nightly-202001{day:02}" for day in range(8, 21)), made["metadata"]["name"]]


def test_the_cronjobs_image_is_pinned_and_has_a_shell_and_it_may_do_what_it_does(cronjob: Manifest, rayjob: Manifest) -> None:
    [container] = cronjob["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert container["command"][0] == "/bin/sh"
    assert not container["image"].startswith(("registry.k8s.io/kubectl", "rancher/kubectl"))  # distroless
    assert re.fullmatch(r"[^\s:@]+:[^\s@]+@sha256:\S+", container["image"])
    [role] = [one for one in documents("kuberay.yaml") if one["kind"] == "Role"]
    [script] = container["args"]
    used = set(re.findall(r"kubectl (\w+)", script)) | {"list"}  # `get` of a kind lists
    assert used == set(role["rules"][0]["verbs"])
    [label] = re.findall(r"rayjobs -l (\S+)", script)
    assert label == "app=" + rayjob["metadata"]["labels"]["app"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_the_server_is_started_with_options_that_it_has_and_a_token() -> None:
    from cnnbatch.command_options import command_parser

    [deployment] = [one for one in documents("serve.yaml") if one["kind"] == "Deployment"]
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    options = command_parser().parse_args(["serve", *container["args"]])
    assert options.port == container["ports"][0]["containerPort"]
    assert [one["name"] for one in container["env"]] == [TOKEN_VARIABLE]
    assert 'ENTRYPOINT ["cnnbatch", "serve"]' in (ROOT / "Dockerfile").read_text()


def test_systemd_understands_the_units(tmp_path: Path) -> None:
    for name in ("cnnbatch-nightly.service", "cnnbatch-nightly.timer"):
        text = (DEPLOY / name).read_text().replace("/opt/cnnbatch/bin/python", sys.executable)
        (tmp_path / name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", *tmp_path.iterdir()], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_service_may_write_where_rays_token_and_local_archives_are() -> None:
    lines = (DEPLOY / "cnnbatch-nightly.service").read_text().splitlines()
    values = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    assert values["ProtectSystem"] == "strict"
    assert values["Environment"] == f"HOME=/var/lib/{values['StateDirectory']}"
    [place] = [number for number, line in enumerate(lines) if line.startswith("ReadWritePaths=")]
    assert "FILL IN" in lines[place - 1]
    assert lines[place].split("=")[1].startswith("-/")  # one that is not there is no error


def cron_entries() -> list[str]:
    lines = (DEPLOY / "crontab").read_text().splitlines()
    return [line.lstrip("#") for line in lines if re.match(r"#?\d", line)]


def test_the_commands_of_systemd_and_cron_are_nights() -> None:
    [start] = re.findall(r"^ExecStart=(.*)$", (DEPLOY / "cnnbatch-nightly.service").read_text(), re.MULTILINE)
    check_entrypoint(shlex.split(start))
    entries = cron_entries()
    assert len(entries) == 2
    for entry in entries:
        *when, user, command = entry.split(maxsplit=6)
        assert when == ["30", "2", "*", "*", "*"]
        assert user == "cnnbatch"
        assert not re.search(r"(?<!\\)%", command)  # cron would make a line break of it
        words = shlex.split(command.split(">>")[0])
        check_entrypoint(words)


@pytest.mark.parametrize("entry", cron_entries())
def test_the_cron_line_hands_the_environment_file_on_and_ends_as_the_night_does(tmp_path: Path, entry: str) -> None:
    command = entry.split(maxsplit=6)[6].replace("\\%", "%")  # as cron gives it to SHELL
    for place in ("/opt/cnnbatch", "/etc/cnnbatch", "/var/log/cnnbatch"):
        command = command.replace(place, str(tmp_path))
    (tmp_path / "environment").write_text("AWS_PROFILE=nights\nNIGHTLY_WEBHOOK='https://host/a?b=c d'\n")
    (tmp_path / "bin").mkdir()
    for name in ("python", "ray"):
        stand_in = tmp_path / "bin" / name
        stand_in.write_text('#!/bin/sh\necho "$AWS_PROFILE|$NIGHTLY_WEBHOOK|$*"\nexit 4\n')
        stand_in.chmod(0o755)
    done = subprocess.run(["/bin/sh", "-c", command], env={"PATH": "/usr/bin:/bin"}, timeout=60, check=False)
    assert done.returncode == 4
    said = (tmp_path / "nightly.log").read_text()
    assert said.startswith("nights|https://host/a?b=c d|")
    assert "jobs.nightly" in said


def test_both_schedulers_say_the_same_mode_of_the_environment_file() -> None:
    for name in ("crontab", "cnnbatch-nightly.service"):
        assert re.findall(r"mode (\d+), (\w+:\w+)", (DEPLOY / name).read_text()) == [("0640", "root:cnnbatch")]


def test_the_dag_is_python_that_submits_a_night() -> None:
    tree = ast.parse((DEPLOY / "airflow_dag.py").read_text())
    commands = [
        node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and str(node.value).startswith("python -m")
    ]
    [command] = commands
    check_entrypoint(shlex.split(str(command)))


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_dockerfile_copies_what_is_there_on_the_tested_ray() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    [base] = [line.split("=", 1)[1] for line in lines if line.startswith("ARG BASE=")]
    assert base == f"rayproject/ray:{pinned('ray')}-py311"
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copies = [line.split()[1:-1] for line in lines if line.startswith("COPY") and "--from" not in line]
    copied = {word for words in copies for word in words if not word.startswith("--")}
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)
