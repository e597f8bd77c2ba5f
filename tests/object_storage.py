"""Google's storage on this machine: an emulator in a thread, in memory.

It ignores preconditions on generations, which exclusive creation is made of and by which orbax's
threads write one file; so its uploads and downloads are wrapped.
"""

import contextlib
import http
import logging
import os
import socket

from etils import epath

BUCKET = "tests"


@contextlib.contextmanager
def emulator():
    """Serves the bucket gs://tests, and sets what the clients find it by; yields its path."""
    from gcp_storage_emulator import server
    from gcp_storage_emulator.handlers import objects

    from jaxdiff import buckets

    logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)
    objects._media_upload = _conditional(objects._media_upload)
    objects._multipart_upload = _conditional(objects._multipart_upload)
    objects.download = _with_generation(objects.download)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    served = server.create_server("127.0.0.1", port, in_memory=True, default_bucket=BUCKET)
    served.start()
    os.environ.update(environment(port))
    buckets.forget_listings()
    try:
        yield epath.Path(f"gs://{BUCKET}")
    finally:
        served.stop()


def environment(port):
    """What gcsfs, google-cloud-storage, orbax and array_record find the emulator by."""
    address = f"http://127.0.0.1:{port}"
    names = ("STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL", "CLOUD_STORAGE_EMULATOR_ENDPOINT")
    return {
        **dict.fromkeys(names, address),
        "GOOGLE_CLOUD_PROJECT": "tests",
        # Else gcsfs asks for the kind of the bucket, which nobody here knows.
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
    }


def _conditional(upload):
    """An upload that refuses where the object has another generation than was asked for."""

    def conditional(request, response, storage):
        from gcp_storage_emulator.exceptions import NotFound

        if expected := request.query.get("ifGenerationMatch"):
            meta = request.data.get("meta", {}) if isinstance(request.data, dict) else {}
            name = request.query.get("name", [meta.get("name")])[0]
            try:
                found = storage.get_file_obj(request.params["bucket_name"], name)["generation"]
            except NotFound:
                found = 0
            if int(found) != int(expected[0]):
                response.status = http.HTTPStatus.PRECONDITION_FAILED
                response.json({"error": {"message": "conditionNotMet", "code": 412}})
                return None
        return upload(request, response, storage)

    return conditional


def _with_generation(download):
    """A download that says the object's generation."""

    def with_generation(request, response, storage, *args, **kwargs):
        download(request, response, storage, *args, **kwargs)
        if response.status < 400:
            bucket, name = request.params["bucket_name"], request.params["object_id"]
            response["x-goog-generation"] = storage.get_file_obj(bucket, name)["generation"]

    return with_generation
