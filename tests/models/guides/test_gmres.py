"""Linear systems of a batch by generalised minimal residuals."""

import torch
from torch import Tensor

from backdrift.models.guides.gmres import gmres


def system(batch: int = 4, size: int = 6) -> tuple[Tensor, Tensor]:
    """Matrices that are neither symmetric nor positive, and right-hand sides."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(batch, size, size, generator=generator, dtype=torch.float64)
    return matrix, torch.randn(batch, size, generator=generator, dtype=torch.float64)


def solved(matrix: Tensor, b: Tensor, iterations: int, tolerance: float = 1e-12) -> Tensor:
    scale = matrix.diagonal(dim1=1, dim2=2).abs()
    vectors: list[Tensor] = []

    def product(u: Tensor) -> Tensor:
        vectors.append(u)
        return torch.einsum("bij,bj->bi", matrix, u)

    found = gmres(product, b, iterations, tolerance, lambda r: r / scale)
    parts = [weight.unsqueeze(1) * u for weight, u in zip(found.weights.unbind(1), vectors, strict=True)]
    torch.testing.assert_close(sum(parts, torch.zeros_like(b)), found.u)  # as `Solution` says
    return found.u


def test_as_many_products_as_unknowns_solve_any_system():
    matrix, b = system()
    torch.testing.assert_close(solved(matrix, b, 6), torch.linalg.solve(matrix, b), rtol=1e-8, atol=1e-8)


def test_the_residual_is_the_least_in_the_krylov_space():
    """Beside a least-squares problem in the span of M^-1 b, M^-1 S M^-1 b, ..."""
    matrix, b = system()
    scale = matrix.diagonal(dim1=1, dim2=2).abs()
    direction, span = b / scale, []
    before = b.norm(dim=1)
    for k in range(1, 5):
        span.append(direction)
        direction = torch.einsum("bij,bj->bi", matrix, direction) / scale
        columns = matrix @ torch.stack(span, 2)
        best = columns @ torch.linalg.lstsq(columns, b.unsqueeze(2)).solution
        least = (b - best.squeeze(2)).norm(dim=1)
        residual = (b - torch.einsum("bij,bj->bi", matrix, solved(matrix, b, k))).norm(dim=1)
        torch.testing.assert_close(residual, least, rtol=1e-8, atol=1e-10)
        assert bool((residual <= before * (1 + 1e-12)).all())
        before = residual


def test_a_sample_that_has_stopped_stays_as_it_is():
    """The first system is solved by one product, and b is 0 in the second."""
    matrix, b = system()
    matrix[0], b[1] = 3 * torch.eye(6), 0.0
    together = solved(matrix, b, 6, tolerance=1e-3)
    torch.testing.assert_close(together[0], b[0] / 3)
    assert not bool(together[1].any())
    for i in range(4):
        torch.testing.assert_close(together[i : i + 1], solved(matrix[i : i + 1], b[i : i + 1], 6, tolerance=1e-3))
