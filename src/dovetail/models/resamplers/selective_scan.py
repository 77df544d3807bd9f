"""The recurrence of a selective state space model, in plain torch (arXiv:2312.00752 sec. 3.2).

    h[t] = exp(delta[t] A) h[t-1] + delta[t] B[t] u[t]          y[t] = C[t] h[t] + D u[t]

    b  batch    n  tokens    i  inner channels    s  states of a channel

One token after the other, all channels and states of the batch at once. That is also the fastest form on a
CPU: the state stays in the cache, and the exponentials, which every form needs, are most of the time.
`bench/bench_scan.py` compares it with forms that take fewer steps over more memory.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def selective_scan(
    u: Float[Tensor, "b n i"],
    delta: Float[Tensor, "b n i"],
    *,
    A: Float[Tensor, "i s"],
    B: Float[Tensor, "b n s"],
    C: Float[Tensor, "b n s"],
    D: Float[Tensor, " i"],
) -> Float[Tensor, "b n i"]:
    """What the states say of each token, in the type of `u`; computed in float32 or wider."""
    wide = torch.promote_types(u.dtype, torch.float32)
    u_wide, delta, A, B, C, D = (one.to(wide) for one in (u, delta, A, B, C, D))
    driven = delta * u_wide
    state = driven.new_zeros(u.shape[0], *A.shape)
    seen = []
    for t in range(u.shape[1]):
        state = torch.exp(delta[:, t, :, None] * A) * state
        state.addcmul_(driven[:, t, :, None], B[:, t, None, :])
        seen.append((state * C[:, t, None, :]).sum(dim=-1))
    return (torch.stack(seen, dim=1) + u_wide * D).to(u.dtype)
