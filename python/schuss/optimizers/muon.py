"""Muon."""

from __future__ import annotations

from schuss.hyperparameters import Fraction, NonNegative, Switch
from schuss.matrix import Matrix, look
from schuss.optimizers.adamw import AdamW
from schuss.orthogonal import OrthogonalOptimizer


class Muon(OrthogonalOptimizer, rule="muon"):
    r"""Muon: steps along the orthogonal matrix nearest to the momentum; AdamW for what is no matrix.

    .. math::

        m &\leftarrow \mu m + (1 - \mu) g \\
        u &= \operatorname{orthogonalize}(\mu m + (1 - \mu) g) \qquad\text{(of } m \text{ without Nesterov's look ahead)} \\
        p &\leftarrow (1 - \eta \lambda) p - \eta \, s(r, c) \, u

    for matrices p of r rows and c columns, with Newton-Schulz iterations, see `linalg.orthogonalize`: every singular value of
    u is near 1. Jordan et al. (2024), *Muon: an optimizer for hidden layers in neural networks*,
    https://kellerjordan.github.io/posts/muon/; Liu et al. (2025), *Muon is scalable for LLM training*,
    https://arxiv.org/abs/2502.16982

    Parameters
    ----------
    params : array, or nesting of lists, tuples and dicts of arrays, or list of Group
        Updated in place; for these and the options of every optimizer (`l2`, `clip`, `bounds`, ...) see `Optimizer`. Arrays
        with at least two axes are matrices, unless they are complex, empty or in `exclude`.
    lr : float or schedule
        Step size, in [0, inf).
    momentum : float or schedule
        μ, the decay of the mean, in [0, 1).
    nesterov : bool
        Orthogonalise the mean as it would be if the gradient came once more.
    weight_decay : float or schedule
        λ, the decay per unit of step size, in [0, inf), of all parameters. For some without,
        ``overrides={"*.bias": {"weight_decay": 0}}``.
    adamw_lr_ratio : float or schedule
        Step size of what is no matrix, as a multiple of `lr`, in [0, inf).
    adamw_beta1, adamw_beta2 : float or schedule
        Decays of its mean and square, in [0, 1).
    adamw_eps : float or schedule
        Added outside its root, in [0, inf).
    form : {"auto", "plain", "gram"}
        How the iterations are computed; "gram" is less work for matrices far from square, "auto" chooses by shape.
    scale : {"match_rms_adamw", "original", "spectral_unclamped"} or None
        s(r, c): :math:`0.2 \sqrt{\max(r, c)}`, with which step sizes and decays are those of AdamW;
        :math:`\sqrt{\max(1, r / c)}`; :math:`\sqrt{r / c}`; or 1. The rows are the outputs, as torch has them.
    flatten : bool or sequence of str
        Whether arrays with more than two axes are one matrix of all but the first axis side by side, as kernels of
        convolutions (out, in, ...) are, or stacks of matrices in the last two axes. Patterns name those to be flattened.
    split : dict, optional
        Row blocks that are orthogonalised, and scaled, by themselves: their number, or the rows of each, by patterns of
        names. ``{"*.qkv": 3}`` for queries, keys and values in one matrix.
    coefficients : str or sequence of triples
        The polynomials: "quintic", "jordan", "polar_express_5", "polar_express", "exact", or a triple (a, b, c) per step.
    steps : int, optional
        How many of them, in {1, 2, 3, ...}; the schedule's own number if not given.
    exclude : sequence of str
        Patterns of names of matrices that AdamW is to step: embeddings and the last layer, as a rule.

    Notes
    -----
    State: `m`, one value per element (4 bytes per float32 parameter), and for what AdamW steps `v` as well (8 bytes). A step
    has two further arrays of a matrix's size at a time, and up to four squares of its shorter side.

    For hidden layers of transformers and convolutional networks, in place of AdamW at its step sizes. A gradient of zeros
    gives no update.

    Not exact: the products are those of NumPy's BLAS, which adds in an order of its own. They are in float32, or float64 for
    float64 parameters, where torch has bfloat16. The momentum of keras, `m` / (1 - μ), has the same direction. optax's, with
    Nesterov's look ahead, has corrections of its bias, and its matrices have inputs as rows.

    Defaults are torch's, but for `scale`, where it has "original", so that one step size fits all parameters; and for
    `coefficients`, where it has "jordan", because the quintic ones take singular values of 0.01 to 1 to [0.97, 1.04] and not
    to [0.68, 1.14] for the same work. "polar_express" is for spectra that are wider.

    MuonClip is this and `qk_clip` after every step, on the weights of queries and keys:

    .. code-block:: python

        opt.step(grads)
        for layer, logits in zip(layers, max_logits):
            schuss.qk_clip(layer["query"], layer["key"], logits)

    Examples
    --------
    >>> params = {"weight": np.zeros((2, 3)), "bias": np.zeros(2)}
    >>> opt = schuss.Muon(params, lr=1.0, adamw_lr_ratio=0.1, scale=None, coefficients="exact")
    >>> opt.step({"weight": np.array([[3.0, 0.0, 4.0], [0.0, 0.5, 0.0]]), "bias": np.array([2.0, -1.0])})
    >>> params["weight"].round(6)
    array([[-0.6,  0. , -0.8],
           [ 0. , -1. ,  0. ]])
    >>> params["bias"].round(6)
    array([-0.1,  0.1])
    """

    lr: NonNegative = 1e-3  #: step size
    momentum: Fraction = 0.95  #: decay of the mean
    nesterov: Switch = True  #: look one gradient ahead
    weight_decay: NonNegative = 0.1  #: decay of the weights per unit of step size
    adamw_lr_ratio: NonNegative = 1.0  #: step size of what is no matrix, as a multiple of lr
    adamw_beta1: Fraction = 0.9  #: decay of its mean
    adamw_beta2: Fraction = 0.999  #: decay of its square
    adamw_eps: NonNegative = 1e-8  #: added outside its root

    def between(self, sweep: int, matrix: Matrix) -> None:
        """Orthogonalise; a factor that all blocks have is left to the last sweep."""
        factors = [factor for _, factor in self.blocks(matrix)]
        alike = len(set(factors)) == 1
        self.orthogonalize(matrix, None if alike else factors)
        matrix.numbers = [factors[0] if alike else 1.0]

    @staticmethod
    def reference(
        p,
        g,
        m,
        v,
        *,
        t,
        lr,
        momentum,
        weight_decay,
        adamw_lr_ratio,
        adamw_beta1,
        adamw_beta2,
        adamw_eps,
        nesterov,
        matrix,
    ):
        """Step one tensor in NumPy."""
        if not matrix:
            rest = {"lr": lr * adamw_lr_ratio, "beta1": adamw_beta1, "beta2": adamw_beta2, "eps": adamw_eps}
            AdamW.reference(p, g, m, v, t=t, weight_decay=weight_decay, **rest)
            return
        mean = momentum * m + (1 - momentum) * g
        seen = yield look(momentum * mean + (1 - momentum) * g if nesterov else mean)
        (scale,) = seen.numbers
        m[...] = mean
        p[...] = (1 - lr * weight_decay) * p - (lr * scale) * seen.work["u"]
