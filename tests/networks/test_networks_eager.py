"""Functions that stay out of compiled graphs."""

import torch

from metgan_dist.methods.image_pool import ImagePool


def test_a_compiled_function_leaves_the_pool_out_of_its_graphs():
    pool, graphs = ImagePool(2), []

    def counting(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    @torch.compile(backend=counting)
    def step(image):
        (shown,) = pool.query(2 * image)
        return shown + 1

    images = [torch.full((1, 1, 2, 2), float(value)) for value in range(4)]
    seen = [step(image)[0, 0, 0, 0].item() for image in images]
    assert seen[:2] == [1.0, 3.0]  # while the pool fills, images pass
    assert set(seen) <= {1.0, 3.0, 5.0, 7.0}
    assert len(pool.entries) == 2
    # Before the pool and after it; an entry more or less compiles nothing again.
    assert len(graphs) == 2
