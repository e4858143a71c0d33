"""The manifests of a project: valid by the published schemas, and at one with each other."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.baked import BakedProject

FOLDER = "deploy/kubernetes"
VERSIONS = ("1.30", "1.37")
"""The oldest and the newest Kubernetes whose schemas the manifests must follow."""
KINDS = {
    "Deployment",
    "Service",
    "PodDisruptionBudget",
    "HorizontalPodAutoscaler",
    "NetworkPolicy",
    "Job",
}

Manifest = dict[str, Any]


@pytest.fixture
def folder(default: BakedProject) -> Path:
    return default.path / FOLDER


@pytest.fixture
def kustomization(folder: Path) -> Manifest:
    loaded: Manifest = yaml.safe_load((folder / "kustomization.yaml").read_text())
    return loaded


@pytest.fixture
def manifests(folder: Path, kustomization: Manifest) -> dict[str, Manifest]:
    """What the kustomization names, by kind."""
    loaded = [yaml.safe_load((folder / name).read_text()) for name in kustomization["resources"]]
    return {manifest["kind"]: manifest for manifest in loaded}


def containers(manifests: dict[str, Manifest]) -> Iterator[tuple[Manifest, Manifest]]:
    """Each container with the description of its pod."""
    for kind in ("Deployment", "Job"):
        pod = manifests[kind]["spec"]["template"]["spec"]
        for container in pod["containers"]:
            yield pod, container


def validate(version: str, *paths: Path) -> None:
    command = [sys.executable, "-m", "kubernetes_validate", "--strict", "-k", version]
    command += map(str, paths)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" passed ") >= len(paths), done.stdout


@pytest.mark.parametrize("version", VERSIONS)
def test_the_manifests_follow_the_schemas(
    folder: Path, kustomization: Manifest, version: str
) -> None:
    validate(version, *(folder / name for name in kustomization["resources"]))


def test_the_kustomization_names_every_file_and_no_other(
    folder: Path, kustomization: Manifest, manifests: dict[str, Manifest]
) -> None:
    assert set(manifests) == KINDS
    (generator,) = kustomization["configMapGenerator"]
    named = {*kustomization["resources"], *generator["envs"], "kustomization.yaml"}
    assert named == {path.name for path in folder.iterdir()}
    images = {container["image"] for _, container in containers(manifests)}
    assert images == {image["name"] for image in kustomization["images"]}


def test_kustomize_builds_it(folder: Path, tmp_path: Path) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is missing: the files were checked, what they are joined to was not")
    done = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    built = tmp_path / "built.yaml"
    built.write_text(done.stdout)
    validate(VERSIONS[0], built)
    objects = {manifest["kind"]: manifest for manifest in yaml.safe_load_all(done.stdout)}
    assert set(objects) == KINDS | {"ConfigMap"}
    for _, container in containers(objects):
        assert (
            container["envFrom"][0]["configMapRef"]["name"]
            == (objects["ConfigMap"]["metadata"]["name"])
        )
        assert ":" in container["image"]


def test_names_and_labels_lead_to_the_pods(manifests: dict[str, Manifest]) -> None:
    deployment = manifests["Deployment"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert manifests["Service"]["spec"]["selector"] == labels
    assert manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    for spread in deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]:
        assert spread["labelSelector"]["matchLabels"] == labels
    job = manifests["Job"]["spec"]["template"]["metadata"]["labels"]
    for pods in (labels, job):
        assert manifests["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"].items() <= (
            pods.items()
        )
    assert job != labels
    target = manifests["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", deployment["metadata"]["name"])
    assert "replicas" not in deployment["spec"]


def test_no_container_has_rights_that_it_does_not_need(manifests: dict[str, Manifest]) -> None:
    for pod, container in containers(manifests):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert set(container["resources"]["limits"]) == {"memory"}
        assert set(container["resources"]["requests"]) == {"cpu", "memory"}


def test_the_pods_run_as_the_image_does(
    manifests: dict[str, Manifest], default: BakedProject
) -> None:
    dockerfile = default.read("Dockerfile")
    (user,) = re.findall(r"^USER (\d+)$", dockerfile, re.MULTILINE)
    (port,) = re.findall(r"^EXPOSE (\d+)$", dockerfile, re.MULTILINE)
    for pod, _ in containers(manifests):
        assert pod["securityContext"]["runAsUser"] == int(user)
    (container,) = manifests["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert [p["containerPort"] for p in container["ports"]] == [int(port)]
    annotations = manifests["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == port


def test_probes_ask_what_the_app_offers(manifests: dict[str, Manifest]) -> None:
    (container,) = manifests["Deployment"]["spec"]["template"]["spec"]["containers"]
    asked = {
        name: container[f"{name}Probe"]["httpGet"]["path"]
        for name in ("startup", "liveness", "readiness")
    }
    assert asked == {
        "startup": "/health/live",
        "liveness": "/health/live",
        "readiness": "/health/ready",
    }


def test_the_scaler_asks_for_a_metric_that_is_there(
    manifests: dict[str, Manifest], default: BakedProject
) -> None:
    metrics = manifests["HorizontalPodAutoscaler"]["spec"]["metrics"]
    assert [metric["type"] for metric in metrics] == ["Resource", "Pods"]
    name = metrics[1]["pods"]["metric"]["name"]
    assert f'"{name}"' in default.read("bff/telemetry/metrics.py")
    assert manifests["HorizontalPodAutoscaler"]["spec"]["minReplicas"] >= 2


def test_its_settings_with_the_secret_are_good_for_production(default: BakedProject) -> None:
    lines = default.read(f"{FOLDER}/settings.env").splitlines()
    given = dict(line.split("=", 1) for line in lines if re.match(r"\w+=", line))
    secret = {
        "REDIS_URL": "redis://redis:6379/0",
        "AMQP_URL": "amqp://rabbitmq/",
        "DATABASE_URL": "postgresql+asyncpg://postgres/bff",
        "JWT_SECRET": "f3b8e1d94c7a60259ad1c8e47b3f605d",
    }
    assert not secret.keys() & given.keys()
    code = (
        "from app.settings import Settings; s = Settings(_env_file=None);"
        "print(sorted(n.upper() for n in s.model_fields_set))"
    )
    done = default.run(sys.executable, "-c", code, **given, **secret)
    assert done.returncode == 0, done.stdout
    assert done.stdout.strip() == str(sorted({*given, *secret} - {"FORWARDED_ALLOW_IPS"}))
