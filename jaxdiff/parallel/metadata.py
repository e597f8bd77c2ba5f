"""Google's metadata server, which tells a virtual machine about itself."""

import os
import re
import urllib.error
import urllib.request
from importlib.util import find_spec

HOST = "metadata.google.internal"


def get(key, environ=os.environ, timeout=5):
    """The text of a key below instance/, such as `attributes/tpu-env`; None if there is none.

    GCE_METADATA_HOST names another server, as in Google's own libraries.
    """
    host = environ.get("GCE_METADATA_HOST") or environ.get("GCE_METADATA_IP") or HOST
    request = urllib.request.Request(
        f"http://{host}/computeMetadata/v1/instance/{key}", headers={"Metadata-Flavor": "Google"}
    )
    try:
        # Never by way of a proxy: the server is on the machine's own network.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=timeout) as answer:
            return answer.read().decode()
    except (OSError, ValueError):
        return None


def tpu_workers(environ=os.environ):
    """The workers of this TPU VM's slice, as the variables that Kubernetes sets; None elsewhere.

    Returns:
      {"TPU_WORKER_HOSTNAMES": ..., "TPU_WORKER_ID": ...}, and those of MEGASCALE if there are
      several slices.
    """
    if "TPU_SKIP_MDS_QUERY" in environ or not _has_tpu():
        return None
    worker = get("attributes/agent-worker-number", environ)
    endpoints = get("attributes/worker-network-endpoints", environ)
    if worker is None or endpoints is None:
        return None
    # `host,host`, and earlier `name:id:address,...`.
    hosts = [endpoint.split(":")[-1].strip() for endpoint in endpoints.split(",")]
    found = {"TPU_WORKER_HOSTNAMES": ",".join(hosts), "TPU_WORKER_ID": worker.strip()}
    lines = (get("attributes/tpu-env", environ) or "").splitlines()  # NAME: 'value'
    for name, value in (line.split(":", 1) for line in lines if ":" in line):
        if name.strip().startswith("MEGASCALE_"):
            found[name.strip()] = value.strip().strip("'")
    return found


def _has_tpu():
    """Whether libtpu is installed, and this machine has a device that may be a TPU."""
    names = [*os.listdir("/dev"), *(os.listdir("/dev/vfio") if os.path.isdir("/dev/vfio") else ())]
    return any(re.fullmatch(r"accel\d+|\d+", name) for name in names) and bool(find_spec("libtpu"))
