"""The PyTorch side of benchmarks/evaluation_networks.py, in its own process.

    python benchmarks/evaluation_torch.py '{"weights": PATH, "images": PATH, ...}'

torch-fidelity's Inception and metrics; beside it values of pytorch-fid, prdc and vendi-score.
"""

import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from benchmarks.contenders import answer_requests, both_seconds

NETWORK = "inception-v3-compat"
PLAIN = {"cuda": False, "verbose": False, "cache": False}


def pytorch_fid(spec, images):
    """FID by pytorch-fid, of uint8 images [N, 3, H, W]."""
    import numpy as np
    import torch
    from pytorch_fid import fid_score, inception

    state = torch.load(spec["weights"])
    inception.load_state_dict_from_url = lambda *_, **__: state
    network = inception.InceptionV3([3]).eval()
    moments = []
    with torch.no_grad():
        for part in images:
            rows = [network(x.float() / 255)[0][:, :, 0, 0] for x in part.split(spec["batch"])]
            features = torch.cat(rows).numpy()
            moments += [np.mean(features, axis=0), np.cov(features, rowvar=False)]
    return fid_score.calculate_frechet_distance(*moments)


def values(spec, real, fake, network):
    """{name: value} by each of the libraries, of images and one file of weights."""
    import numpy as np
    import torch
    from prdc import compute_prdc
    from torch_fidelity import calculate_metrics
    from vendi_score import vendi

    class Images(torch.utils.data.Dataset):
        def __init__(self, images):
            self.images = images

        def __len__(self):
            return len(self.images)

        def __getitem__(self, number):
            return self.images[number]

    found = calculate_metrics(
        input1=Images(fake),
        input2=Images(real),
        fid=True,
        isc=True,
        kid=True,
        prc=True,
        batch_size=spec["batch"],
        kid_subset_size=len(real) // 2,
        feature_extractor=NETWORK,  # of precision and recall too, for which it has VGG-16
        feature_extractor_weights_path=spec["weights"],
        **PLAIN,
    )
    with torch.no_grad():
        rows = [
            torch.cat([network(x)[0] for x in images.split(spec["batch"])]).numpy()
            for images in (real, fake)
        ]
    rows = [np.float64(each) for each in rows]
    own = compute_prdc(*rows, nearest_k=5)
    return {
        "FID": found["frechet_inception_distance"],
        "KID": found["kernel_inception_distance_mean"],
        "KID deviation": found["kernel_inception_distance_std"],
        "IS": found["inception_score_mean"],
        "IS deviation": found["inception_score_std"],
        "precision": found["precision"],
        "recall": found["recall"],
        "FID, pytorch-fid": pytorch_fid(spec, (real, fake)),
        "precision, open ball": own["precision"],
        "recall, open ball": own["recall"],
        "density": own["density"],
        "coverage": own["coverage"],
        "Vendi": vendi.score_dual(rows[1]),
    }


def ready(spec):
    """What `answer_requests` asks for."""
    import numpy as np
    import torch
    import torch_fidelity
    from torch_fidelity.utils import create_feature_extractor

    device = "cuda" if spec["accelerator"] and torch.cuda.is_available() else "cpu"
    network = create_feature_extractor(
        NETWORK,
        ["2048", "logits_unbiased"],
        cuda=False,
        verbose=False,
        feature_extractor_weights_path=spec["weights"],
    )
    arrays = np.load(spec["images"])
    real, fake = (
        torch.from_numpy(np.ascontiguousarray(arrays[name].transpose(0, 3, 1, 2)))
        for name in ("real", "fake")
    )
    placed, batch = network.to(device), real[: spec["batch"]]

    def extract():
        with torch.no_grad():
            return [features.cpu() for features in placed(batch.to(device))]

    functions = {
        "inception-2015": extract,
        "values": lambda: values(spec, real, fake, network.cpu()),
    }
    version = f"torch {torch.__version__}, torch-fidelity {torch_fidelity.__version__}"
    return {"version": version, "device": device}, functions


if __name__ == "__main__":
    answer_requests(
        lambda: ready(json.loads(sys.argv[1])),
        {
            "time": both_seconds,
            "values": lambda functions: {k: float(v) for k, v in functions["values"]().items()},
        },
    )
