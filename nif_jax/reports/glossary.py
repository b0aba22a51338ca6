"""What the words of tables and reports mean."""

from collections.abc import Sequence

GAUC_NOTE = (
    "GAUC on online histories is biased against models that use responses: within a user, an "
    "earlier click raises every later score. Compare GAUC on frozen histories."
)
LEAKY_NOTE = (
    "The random split leaks the future through other rows' histories; it is here only to match "
    "the papers."
)
TERMS = {
    "online": "histories hold the user's earlier test events with their answers.",
    "frozen": "histories end where the test period begins.",
    "leaky": LEAKY_NOTE,
    "AUC": "probability that a clicked impression scores above one that was not, a tie counting "
           "half; more is better.",
    "GAUC": "mean of the AUCs within each user who has both labels, weighted by impressions; more "
            f"is better. {GAUC_NOTE}",
    "LogLoss": "mean cross-entropy in nats; less is better.",
    "NE": "LogLoss over the entropy of the test period's own click rate; 1 is what a constant "
          "reaches, less is better.",
    "ECE": "expected calibration error: distance of predicted and observed click rate, mean over "
           "15 bins of equal mass; less is better.",
    "PCOC": "predicted clicks over observed clicks; 1 is right, above 1 promises too much.",
    "share of the Bayes gap": "(AUC - popularity's) / (Bayes' - popularity's), where a simulator "
                              "knows the click probabilities: 0 is popularity, 1 cannot be beaten.",
    "selected": "of the run's other rows the one with the best metric on validation, seed by seed.",
    "pt": "points of 0.01.",
    "±": "standard deviation over seeds (n - 1).",
    "interval": "[low, high] in which the difference lies at 95 %, by paired bootstrap over the "
                "test period's users (or impressions, by config.eval.resample_unit) of the mean "
                "over seeds.",
    "no difference": "the interval holds 0: better or worse cannot be told on this test set.",
    "labels saved": "part of the base ranker's labels that a model does without and still reaches "
                    "its AUC; between the fractions that were tried, linear in the logarithm.",
    "HR@k": "share of next items among the first k of the whole catalogue, those of the history "
            "left out; NDCG@k discounts by rank. More is better.",
}  # fmt: skip
_SIGNS = {"interval": "[", "HR@k": "HR@", "leaky": "(leaky)", "pt": ", pt", "labels saved":
          "labels needed"}  # fmt: skip


def chosen(parts: Sequence[str]) -> dict[str, str]:
    """The terms that a document uses, so that it explains nothing that it does not say."""
    text = "\n".join(parts)
    return {term: meaning for term, meaning in TERMS.items() if _SIGNS.get(term, term) in text}
