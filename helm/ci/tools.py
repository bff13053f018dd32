"""What check.py and pods.py both need: helm, and what it renders."""

import os
import pathlib
import subprocess

CHART = pathlib.Path(__file__).resolve().parent.parent
ROOT = CHART.parent
# Where `./check` puts the tools.
TOOLS = pathlib.Path(os.environ.get("REMORA_CHART_TOOLS", ROOT / "target/tools/chart"))
HELM = TOOLS / "helm"
# What the cluster knows beside Kubernetes' own.
APIS = ["--api-versions", "monitoring.coreos.com/v1"]


def helm(*args):
    """Runs helm; its exit status, and what it said."""
    ran = subprocess.run([HELM, *args], capture_output=True, text=True, timeout=120, check=False)
    return ran.returncode, ran.stdout, ran.stderr


def render(*args, release="remora", namespace="remora"):
    """The chart's objects with those values."""
    import yaml

    status, out, err = helm("template", release, str(CHART), "--namespace", namespace, *APIS, *args)
    if status != 0:
        raise SystemExit(f"helm template {' '.join(args)}: {err}")
    return [each for each in yaml.safe_load_all(out) if each]
