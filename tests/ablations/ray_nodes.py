"""A Ray of two nodes on this machine, with a token, for as long as its input is open.

`python -m tests.ablations.ray_nodes CORES` prints the address once both nodes are there.
"""

from __future__ import annotations

import sys

from ray.cluster_utils import Cluster


def main(cores: int) -> None:
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": cores,
            "include_dashboard": False,
        },
    )
    cluster.add_node(num_cpus=cores)
    cluster.wait_for_nodes()
    print(cluster.address, flush=True)
    for line in sys.stdin:
        if line == "lose a node\n":
            cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
            print("lost", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]))
