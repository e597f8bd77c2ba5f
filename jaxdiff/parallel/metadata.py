"""Google's metadata server, which a virtual machine asks about itself.

Keys below instance/ that say that the machine will end (cloud.google.com/compute/docs/metadata):

    maintenance-event   NONE; MIGRATE_ON_HOST_MAINTENANCE, which a program survives; or
                        TERMINATE_ON_HOST_MAINTENANCE: 60 s before, with GPUs an hour
    preempted           FALSE or TRUE: at most 30 s before
"""

import os
import re
import signal
import threading
import time
import urllib.request
from importlib.util import find_spec

HOST = "metadata.google.internal"
ENDINGS = {"maintenance-event": "TERMINATE", "preempted": "TRUE"}  # how the values begin
PRODUCT = "/sys/class/dmi/id/product_name"
RETRY = 5.0  # seconds until a server that does not answer is asked again


def get(key, environ=os.environ, timeout=5):
    """The text of a key below instance/, such as `attributes/tpu-env`; None if there is none.

    GCE_METADATA_HOST names another server, as in Google's own libraries.
    """
    return _ask(key, environ, timeout)[0]


def _ask(key, environ, timeout):
    """(text, what identifies this version of it) of a key; (None, None) if there is none."""
    host = environ.get("GCE_METADATA_HOST") or environ.get("GCE_METADATA_IP") or HOST
    request = urllib.request.Request(
        f"http://{host}/computeMetadata/v1/instance/{key}", headers={"Metadata-Flavor": "Google"}
    )
    # Never by way of a proxy: the server is on the machine's own network.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=timeout) as answer:
            return answer.read().decode().strip(), answer.headers.get("ETag")
    except (OSError, ValueError):  # of urllib too
        return None, None


def watch(cluster=None, environ=os.environ):
    """Sends this process SIGTERM once its machine is about to end, where the machine is Google's.

    Threads that end with the program wait for each key to change. Maintenance that had been
    announced before this program began is left to the machine's own SIGTERM: a program that is
    started again meanwhile would else end at once, each time.

    Args:
      cluster: the Cluster, whose kind may be "TPU"; or None.
      environ: the environment.

    Returns:
      Whether the machine is Google's.
    """
    if not (environ.get("GCE_METADATA_HOST") or _is_tpu(cluster) or _is_google()):
        return False
    for key, ending in ENDINGS.items():
        arguments = key, ending, environ
        threading.Thread(target=_watch, name=f"watch {key}", args=arguments, daemon=True).start()
    return True


def _watch(key, ending, environ):
    before = etag = None  # of the last answer
    while True:
        # The first question is answered at once, a later one at the next change or after that time.
        since = f"&last_etag={etag}" if etag else ""
        waiting = "" if before is None else f"?wait_for_change=true&timeout_sec=300{since}"
        value, version = _ask(key + waiting, environ, timeout=330 if waiting else 5)
        if value is None:  # what changes meanwhile is in the next answer, which is of another etag
            time.sleep(RETRY)
            continue
        is_new = value != before if before is not None else key == "preempted"
        if is_new and value.startswith(ending):
            break
        before, etag = value, version
    os.kill(os.getpid(), signal.SIGTERM)


def _is_tpu(cluster):
    return cluster is not None and cluster.kind == "TPU"


def _is_google():
    """Whether this machine is one of Compute Engine's, as its firmware says."""
    try:
        with open(PRODUCT, encoding="utf-8") as file:
            return file.read().strip() == "Google Compute Engine"
    except OSError:
        return False


def tpu_workers(environ=os.environ):
    """The workers of this TPU VM's slice, as the variables that Kubernetes sets; None elsewhere.

    Returns:
      {"TPU_WORKER_HOSTNAMES": ..., "TPU_WORKER_ID": ...}, and those of MEGASCALE if there are
      several slices.
    """
    if "TPU_SKIP_MDS_QUERY" in environ or not _has_tpu():
        return None
    # Where no server answers, the first question alone is waited for.
    if (worker := get("attributes/agent-worker-number", environ)) is None:
        return None
    if (endpoints := get("attributes/worker-network-endpoints", environ)) is None:
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
