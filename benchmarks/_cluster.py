"""How much longer does the teacher's pass take on two Ray nodes of one CPU than on two cores without Ray?

10,000 images, interleaved; starting the cluster is left out. Run it by hand on a machine of two cores that does nothing
else: `python -m benchmarks._cluster`. It needs Ray (requirements-cluster.txt), so `make bench` leaves it out.
"""

import os
from collections import deque

from ray.cluster_utils import Cluster

from benchmarks._timing import answer, interleaved, table
from benchmarks._workspace import random_teacher, workspace
from distillation import cluster
from distillation.data.records import Records
from distillation.inference import on_nodes
from distillation.inference.forward import forward_pass, predictions, to_litert, view_images
from distillation.inference.litert import Network

IMAGES, ROUNDS, STORE = 10_000, 5, 2**30


def main() -> None:
    with workspace(IMAGES, 1) as params:
        records, size = Records("train"), params.teacher.image_size
        network = Network(to_litert(random_teacher(params)))
        forward = forward_pass(network)
        ray = Cluster(True, head_node_args={"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE})
        for _ in range(2):
            ray.add_node(num_cpus=1, object_store_memory=STORE)
        os.environ["RAY_ADDRESS"] = ray.address

        def here() -> None:
            images = view_images(records, size, params.views, 1)
            deque(predictions(forward, images, "here"), maxlen=0)

        def there() -> None:
            deque(on_nodes.predictions(network, records, size, params.views, 1, 0, "on nodes"), maxlen=0)

        with cluster.connected():
            there()  # starts the workers
            seconds = interleaved(there, here, rounds=ROUNDS)
        ray.shutdown()
    print(table({"cluster": answer(__doc__, seconds[:, 0] / seconds[:, 1], "<= 1.1")}))


if __name__ == "__main__":
    main()
