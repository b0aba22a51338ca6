"""What a ranker computes of the whole catalogue: once for its parameters, not for each batch."""

from typing import Any

from nif_jax.models.baselines.interface import Baseline
from nif_jax.models.flow import FlowDecoder
from nif_jax.models.ranker import Ranker
from nif_jax.stages.cohort_input import CohortInput
from nif_jax.stages.flow_input import FlowInput, current_generator


def prepare(
    model: Ranker | Baseline,
    generator: FlowDecoder | None,
    flow: FlowInput,
    cohorts: CohortInput,
    params,
    variables,
    constants,
) -> dict[str, Any]:
    """Further constants of finetune.predict, see Scorer: "tuned_item_emb" [N + 1, D], the item
    vectors of a tuned generator, and "cohort_means", the mean embeddings of all cohorts.

    The vectors of a frozen generator are constants of the stage.
    """
    del variables
    found: dict[str, Any] = {}
    vectors = current_generator(generator, flow, params, constants)[1]
    if flow.tune:
        found["tuned_item_emb"] = vectors
    if cohorts.beams:
        given = (constants["items"], vectors if flow.add_item_emb else None, constants["ids"])
        found["cohort_means"] = model.apply({"params": params}, *given, method="cohort_means")
    return found
