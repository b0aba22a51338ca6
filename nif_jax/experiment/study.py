"""The study of a search: its trials in a storage that several processes share.

Trial n is chosen and pruned by the results of the trials 0 to n - at_once, all of which have ended
before it starts (nif_jax/experiment/search.py).
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import filelock
import optuna
from optuna.distributions import BaseDistribution
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from nif_jax.data.schema import ConfigError
from nif_jax.experiment import search

JOURNAL_FILE, LOCK_FILE = "study.journal", "study.lock"
_WHY, _ABOUT = "why", "about"


class Study:
    """Trials of a search. Changes need `lock`, which other processes may hold."""

    def __init__(
        self,
        name: str,
        folder: pathlib.Path,
        space: Mapping[str, BaseDistribution],
        *,
        seed: int,
        total: int,
        at_once: int,
        storage: str,
        about: Mapping[str, Any],
    ):
        """Opens the study, or makes it.

        Args:
          name: of the study.
          folder: of its lock, which all processes see.
          space: see search.distributions.
          seed: of the search.
          total: number of trials.
          at_once: how many may run at a time, over all processes.
          storage: Optuna's URL of a database; "" = a file in the folder.
          about: what trials depend on beside these, as JSON.

        Raises:
          ConfigError: there is a study of this name, whose trials depend on something else.
        """
        # In an order that does not depend on the command's.
        self._space = dict(sorted(space.items()))
        self._seed, self.total, self._at_once = seed, total, at_once
        folder.mkdir(parents=True, exist_ok=True)
        self.lock = filelock.FileLock(folder / LOCK_FILE)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with self.lock:
            backend = JournalFileBackend(str(folder / JOURNAL_FILE))
            self._storage = optuna.storages.get_storage(
                storage or optuna.storages.JournalStorage(backend)
            )
            self._study = optuna.create_study(
                study_name=name, storage=self._storage, direction="maximize", load_if_exists=True
            )
            about = {**about, "trials_at_once": at_once}
            self._require_same(json.loads(json.dumps(about)), storage or str(folder))
        self._id = self._storage.get_study_id_from_name(name)

    def _require_same(self, about: Mapping[str, Any], place: str) -> None:
        there = self._study.user_attrs.get(_ABOUT)
        if there is None:
            self._study.set_user_attr(_ABOUT, about)
            return
        keys = [key for key in {**there, **about} if there.get(key) != about.get(key)]
        if keys:
            changed = "\n    ".join(f"{key}: {there.get(key)} -> {about.get(key)}" for key in keys)
            raise ConfigError(
                f"{place} has a study {self._study.study_name} of another command (there -> here); "
                f"use another --workdir and --storage, or repeat that command:\n    {changed}"
            )

    def trials(self) -> list[FrozenTrial]:
        """Those that have been started, by number."""
        return self._study.get_trials(deepcopy=False)[: self.total]

    def start(self) -> FrozenTrial | None:
        """The next trial, or None if there is none left, or none that can start yet."""
        trials = self.trials()
        number, earlier = len(trials), self._earlier(trials, len(trials))
        if number >= self.total or not all(trial.state.is_finished() for trial in earlier):
            return None
        params = search.propose(earlier, number, self._seed, self._space)
        new = optuna.trial.create_trial(
            state=TrialState.RUNNING, params=params, distributions=self._space
        )
        self._study.add_trial(new)
        return self.trials()[number]

    def _earlier(self, trials: Sequence[FrozenTrial], number: int) -> Sequence[FrozenTrial]:
        """The trials that the one of a number depends on."""
        return trials[: max(0, number + 1 - self._at_once)]

    def settle(
        self,
        number: int,
        workdir: pathlib.Path,
        config: Mapping[str, Any],
        *,
        finished: bool,
        diverged: bool = False,
    ) -> bool:
        """Whether a trial has ended, by what its run has written; the storage is told.

        Args:
          number: of the trial.
          workdir: of its run.
          config: of its run, flat.
          finished: whether the run has results.
          diverged: whether it has ended because its loss is not finite.
        """
        trials, values = self.trials(), dict[int, float]()
        trial, earlier = trials[number], self._earlier(trials, number)
        if trial.state.is_finished():
            return True
        key = self._storage.get_trial_id_from_study_id_trial_number(self._id, number)
        ended = "diverged" if diverged else ""
        for stage, step, value in search.evaluations(workdir, config):
            values[step] = value
            if step not in trial.intermediate_values:
                self._storage.set_trial_intermediate_value(key, step, value)
            if search.is_pruned(earlier, trial, values):
                ended = f"pruned in {stage} at {value:.4f}"
                break
        if ended:
            self._storage.set_trial_user_attr(key, _WHY, ended)
            self._study.tell(number, state=TrialState.PRUNED)
        elif finished:
            self._study.tell(number, search.objective(workdir, config))
        return bool(ended) or finished


def ended(trial: FrozenTrial) -> str:
    """Why a trial has ended without a value, in words; "" for others."""
    return trial.user_attrs.get(_WHY, "")


def by_value(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The complete ones, the best first, and then the others."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    others = [trial for trial in trials if trial.state != TrialState.COMPLETE]
    return sorted(complete, key=lambda trial: (-(trial.value or 0.0), trial.number)) + others
