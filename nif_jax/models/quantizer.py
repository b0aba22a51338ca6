"""Residual vector quantizer (RQ-VAE): content vectors to K levels of codes (method.md, 2.1).

Letters: B batch, C content width, d latent width, K levels, V codes a level.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from nif_jax.data.schema import ConfigError, require_choice
from nif_jax.data.windows import Array
from nif_jax.models.embed import Mlp

FORMS = ("ema", "straight_through", "kmeans", "random")


class Codebooks(NamedTuple):
    """Codes of all levels with their running statistics, which learn without gradients.

    Attributes:
      vectors: [K, V, d].
      count: [K, V] moving average of how many rows of a batch take each code.
      total: [K, V, d] moving average of the sum of those rows' residuals.
    """

    vectors: Array
    count: Array
    total: Array


class Quantized(NamedTuple):
    """What quantising gives, level by level.

    Attributes:
      codes: [B, K] int32 in 0..V-1.
      residuals: [B, K, d] what each level had to quantise.
      chosen: [B, K, d] the code vectors taken; their sum over K is the quantised latent.
    """

    codes: jax.Array
    residuals: jax.Array
    chosen: jax.Array


def quantize(vectors: Array, latent: Array) -> Quantized:
    """Nearest code of each level to what the levels before left over.

    Args:
      vectors: [K, V, d] codebooks.
      latent: [B, d].
    """

    def level(residual, book):
        # |r - e|^2 without |r|^2, which is the same for every code.
        # In full precision: near ties fall alike on every kind of device.
        product = jnp.matmul(residual, book.T, precision=jax.lax.Precision.HIGHEST)
        distance = (book * book).sum(-1) - 2 * product
        code = distance.argmin(-1).astype(jnp.int32)
        chosen = book[code]
        return residual - chosen, (code, residual, chosen)

    _, found = jax.lax.scan(level, latent, vectors)
    return Quantized(*(jnp.moveaxis(x, 0, 1) for x in found))


def update_codebooks(
    books: Codebooks,
    found: Quantized,
    weight: jax.Array,
    rng: jax.Array,
    *,
    decay: float,
    dead_share: float,
    axis_name: str | None,
) -> Codebooks:
    """Moves every code to the moving average of the residuals that took it (EMA k-means).

    A code that is taken by less than `dead_share` of its even share starts anew from a residual of
    the batch.

    Args:
      books: the codebooks.
      found: what this batch's rows took.
      weight: [B] 1 for real rows, 0 for padding.
      rng: chooses the residuals for dead codes.
      decay: of the averages.
      dead_share: see above; 0 = never.
      axis_name: devices over which statistics are added up, or None.
    """
    taken = jax.nn.one_hot(found.codes, books.count.shape[1]) * weight[:, None, None]  # [B, K, V]
    count, total = taken.sum(0), jnp.einsum("bkv,bkd->kvd", taken, found.residuals)
    # A weighted draw with replacement; every device has to place the same vectors.
    places = books.count.shape[1]
    drawn = jax.random.categorical(rng, jnp.log(jnp.maximum(weight, 1e-9)), shape=(places,))
    fresh = jnp.moveaxis(found.residuals[drawn], 0, 1)  # [K, V, d]
    rows = weight.sum()
    if axis_name is not None:
        count, total, rows = jax.lax.psum((count, total, rows), axis_name)
        fresh = jax.lax.all_gather(fresh, axis_name)[0]
    count = decay * books.count + (1 - decay) * count
    total = decay * books.total + (1 - decay) * total
    share = rows / places
    dead = count < dead_share * share
    count = jnp.where(dead, share, count)
    total = jnp.where(dead[..., None], fresh * share, total)
    return Codebooks(total / jnp.maximum(count, 1e-9)[..., None], count, total)


def require_codes(codes: int, items: int) -> None:
    """Raises ConfigError if a level has more codes than the catalogue has items."""
    if codes > items:
        raise ConfigError(
            f"config.tokenizer.codes={codes} is more than the {items} items of the catalogue; use "
            "fewer codes."
        )


def fit_codebooks(latent: np.ndarray, levels: int, codes: int, batch: int, seed: int) -> Codebooks:
    """Residual k-means: the start of a trained quantizer, and a quantizer of its own.

    Args:
      latent: [N, d].
      levels: K.
      codes: V.
      batch: rows of a train step, which the running counts are scaled to.
      seed: of k-means.

    Raises:
      ConfigError: fewer items than codes.
    """
    require_codes(codes, len(latent))
    books, counts, residual = [], [], np.asarray(latent, np.float32)
    spread = np.random.default_rng(seed)
    for _ in range(levels):
        # k-means finds fewer clusters than requested among equal points: noise separates them.
        noise = np.asarray(spread.standard_normal(residual.shape), np.float32)
        apart = residual + 1e-6 * noise
        with threadpool_limits(1):  # sums over threads have other bits each time
            means = KMeans(codes, n_init=1, random_state=seed).fit(apart)
        books.append(means.cluster_centers_)
        counts.append(np.bincount(means.labels_, minlength=codes) * batch / len(latent))
        residual = residual - means.cluster_centers_[means.labels_]
    vectors = np.stack(books).astype(np.float32)
    count = np.stack(counts).astype(np.float32)
    return Codebooks(vectors, count, vectors * count[..., None])


class RqVae(nn.Module):
    """Encoder, residual codes, decoder.

    Attributes:
      content: C, width of the content vectors.
      dim: d.
      hidden: widths between C and d; the decoder mirrors them.
    """

    content: int
    dim: int
    hidden: tuple[int, ...]

    def setup(self):
        self.encoder = Mlp((*self.hidden, self.dim))
        self.decoder = Mlp((*reversed(self.hidden), self.content))

    def encode(self, content: jax.Array) -> jax.Array:
        """[B, d] latent of [B, C]."""
        return self.encoder(content)

    def decode(self, latent: jax.Array) -> jax.Array:
        """[B, C] content of [B, d]."""
        return self.decoder(latent)

    def __call__(
        self, content: jax.Array, vectors: jax.Array
    ) -> tuple[jax.Array, jax.Array, Quantized]:
        """One pass, gradients straight through the codes.

        Args:
          content: [B, C].
          vectors: [K, V, d] codebooks.

        Returns:
          reconstruction: [B, C].
          commitment: [B] squared distance from latent to codes, which pulls the latent; summed over
            levels, each against the residual it was chosen for.
          the codes.
        """
        latent = self.encode(content)
        found = quantize(vectors, latent)
        chosen = jax.lax.stop_gradient(found.chosen)
        commitment = ((found.residuals - chosen) ** 2).sum((-1, -2))
        quantized = latent + jax.lax.stop_gradient(found.chosen.sum(1) - latent)
        return self.decode(quantized), commitment, found


def require_form(form: str) -> None:
    """Raises ConfigError unless `form` is one of FORMS."""
    require_choice("tokenizer.form", form, FORMS)


def random_codes(num_items: int, levels: int, codes: int, seed: int) -> np.ndarray:
    """[N, K] codes without meaning: the control that says what meaning is worth."""
    return np.random.default_rng(seed).integers(0, codes, (num_items, levels), dtype=np.int32)


def encode_catalogue(
    model: RqVae, params: Any, vectors: Any, content: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Latents [N, d] and nearest codes [N, K] of content [N, C]."""

    def encode(params, vectors, content):
        latent = model.bind({"params": params}).encode(content)
        return latent, quantize(vectors, latent).codes

    with jax.default_matmul_precision("highest"):  # as in quantize
        return jax.tree.map(np.asarray, jax.jit(encode)(params, vectors, content))
