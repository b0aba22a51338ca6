"""Sweeps: what they consist of, how their runs are trained as processes, and what is gathered."""

import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest

from configs.sweeps import common
from launch import jobs, pool
from nif_jax.config import flatten
from nif_jax.data import files
from nif_jax.data.schema import ConfigError
from nif_jax.metrics import writer
from nif_jax.reports import results
from tests.launch.stand_ins import STUB_RUN

# ml_collections loads config files in a way that Python is going to drop.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

ROOT = pathlib.Path(__file__).resolve().parents[1]
TINY = (
    "synthetic,smoke,source.num_users=24,source.num_items=20,source.events_per_user=20.0,"
    "ranker.dim=4,ranker.attention=4,ranker.tower=8,data.history_length=4,train.batch_size=32,"
    "train.microbatch=0,train.epochs=1.0,train.steps_per_dispatch=2,eval.batch_size=16"
)


def _sweep(folder, **seeds):
    """A sweep file whose runs are base rankers with these seeds."""
    variants = {name: {"seed": seed} for name, seed in seeds.items()}
    path = folder / "toy.py"
    path.write_text(
        '"""Toy question?"""\nfrom configs.sweeps import common\n\n\ndef get_sweep():\n'
        f'    return common.grid("configs/base.py", ("synthetic",), {variants!r}, {{}})\n'
    )
    return path


def _claim(job):
    """Leaves the job's folder as its run does when it starts."""
    job.workdir.mkdir(exist_ok=True)
    (job.workdir / "config.json").write_text(json.dumps(job.config))


def _command(folder, sweep, *more, stub=True):
    command = [
        sys.executable,
        str(ROOT / "launch" / "sweep.py"),
        f"--sweep={sweep}",
        f"--workdir={folder / 'runs'}",
        f"--output={folder / 'results'}",
        *more,
    ]
    if stub:
        (folder / "stub.py").write_text(STUB_RUN)
        command.append(f"--command={sys.executable} {folder / 'stub.py'}")
    # Stubs lie elsewhere, and have to find this checkout.
    return command, dict(os.environ, PYTHONPATH=str(ROOT))


def _run(folder, sweep, *more, code=0, **options):
    command, environment = _command(folder, sweep, *more, **options)
    done = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def _wait(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


class TestJobs:
    def _job(self, folder, text="", overrides=(), data="synthetic"):
        settings = dict(word.split("=") for word in text.split(",") if word)
        return jobs.make_jobs(
            [common.Run(data, "full", "configs/nif.py", settings)], folder, overrides=overrides
        )

    @pytest.mark.parametrize(
        ("text", "overrides", "message"),
        [
            ("tsp.weigth=1", [], r"synthetic-full: .*no config key 'tsp.weigth'"),
            ("", ["--config.tsp.wieght=1"], "full: no such key .*'wieght'. Did you mean"),
            ("", ["--config.tsp.weight=much"], "tsp.weight='much' has to be a number"),
            ("rows=base+amne", [], "did you mean 'amen'"),
            ("rows=genci", [], "variant 'genci' needs the section"),
        ],
    )
    def test_a_config_that_cannot_be_built_is_found_before_anything_starts(
        self, text, overrides, message, tmp_path
    ):
        with pytest.raises(ConfigError, match=rf"nothing was started(.|\n)*{message}"):
            jobs.check(self._job(tmp_path, text, overrides))

    def test_overrides_reach_the_config_as_they_reach_main(self, tmp_path):
        (job,) = self._job(tmp_path, "num_seeds=3", ["--config.tsp.weight=0.5"])
        assert (job.config["num_seeds"], job.config["tsp.weight"]) == (3, 0.5)

    def test_a_folder_of_another_config_is_refused(self, tmp_path):
        (job,) = self._job(tmp_path)
        _claim(job)
        jobs.check([job])
        with pytest.raises(ConfigError, match=r"synthetic-full belongs to(.|\n)*weight: 0.05 -> 1"):
            jobs.check(self._job(tmp_path, "tsp.weight=1"))

    def test_a_folder_may_be_given_more_seeds_and_rows_but_not_fewer(self, tmp_path):
        (job,) = self._job(tmp_path, "num_seeds=2")
        _claim(job)
        row = dict.fromkeys(results.ROW_KEYS, 0.5) | {
            "model": "base",
            "seed": 0,
            "split": "test",
            "history": "frozen",
        }
        results.write_results(job.workdir / "results.json", {"config": job.config}, [row])
        (more,) = self._job(tmp_path, "num_seeds=2", ["--config.num_seeds=3"])
        jobs.check([more])
        assert (job.state, more.state) == ("finished", "to do")
        with pytest.raises(ConfigError, match="num_seeds: 2 -> 1"):
            jobs.check(self._job(tmp_path, "num_seeds=1"))

    def test_data_that_is_not_there_is_skipped_and_results_remain(self, tmp_path):
        run = [common.Run("kuairand", "full", "configs/nif.py", {})]
        file = common.DATA["kuairand"].file
        (absent,) = jobs.make_jobs(run, tmp_path)
        assert absent.missing and "skipped, there is no <--data>/" in absent.state
        (tmp_path / file).touch()
        (job,) = jobs.make_jobs(run, tmp_path, data=str(tmp_path))
        assert job.state == "to do"
        assert job.config["source.path"] == str(tmp_path / file)
        # Called later without the data, the finished run is still this one.
        _claim(job)
        jobs.check([absent])

    def test_names_are_unique(self, tmp_path):
        run = common.Run("synthetic", "full", "configs/nif.py", {})
        with pytest.raises(ConfigError, match="several runs called synthetic-full"):
            jobs.make_jobs([run, run], tmp_path)

    def test_a_file_that_is_no_sweep(self, tmp_path):
        with pytest.raises(ConfigError, match=r"no Python file.*ablations, .*main"):
            jobs.load_sweep("ablations")
        (tmp_path / "empty.py").touch()
        with pytest.raises(ConfigError, match="no get_sweep"):
            jobs.load_sweep(str(tmp_path / "empty.py"))


def _tasks(folder, script, count):
    return [
        pool.Task(f"t{n}", [sys.executable, "-c", script, str(n)], folder / f"t{n}")
        for n in range(count)
    ]


class TestPool:
    @pytest.fixture(autouse=True)
    def _said(self, capsys):
        self.said = lambda: capsys.readouterr().err

    def _run(self, tasks, at_a_time):
        ended = []
        outcomes = pool.run(tasks, at_a_time, ended.append)
        assert outcomes == ended
        return outcomes, self.said()

    def test_runs_in_order_so_many_at_a_time(self, tmp_path):
        script = (
            "import time; print(time.monotonic(), flush=True); time.sleep(.4); "
            "print(time.monotonic())"
        )
        outcomes, said = self._run(_tasks(tmp_path, script, 4), 2)
        assert [o.code for o in outcomes] == [0] * 4
        spans = [[float(line) for line in pool.last_lines(tmp_path / f"t{n}", 2)] for n in range(4)]
        # Of 0 to 3 the first two start together, the others once a place is free.
        assert max(spans[0][0], spans[1][0]) < min(spans[0][1], spans[1][1])
        assert min(spans[2][0], spans[3][0]) > min(spans[0][1], spans[1][1])
        assert re.search(r"0/4 .*running t0, t1\b", said)
        assert re.search(r"4/4 .*running nothing\b", said)

    @pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="cores are a matter of Linux")
    def test_each_has_cores_of_its_own(self, tmp_path, monkeypatch):
        before = os.sched_getaffinity(0)
        script = "import os, time; print(sorted(os.sched_getaffinity(0))); time.sleep(.2)"
        self._run(_tasks(tmp_path, script, 2), 2)
        found = [set(json.loads(pool.last_lines(tmp_path / f"t{n}", 1)[0])) for n in range(2)]
        assert os.sched_getaffinity(0) == before
        if len(before) > 1:
            assert found[0] | found[1] == before and not found[0] & found[1]
        else:
            assert found == [before, before]
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 6, 8, 9})
        assert pool.core_sets(2) == [[3, 6, 9], [5, 8]]
        assert pool.core_sets(1) == [[]]
        assert pool.core_sets(6) == [[]] * 6

    def test_a_failure_stops_no_other(self, tmp_path):
        script = "import sys; print('out\\rof', file=sys.stderr); sys.exit(int(sys.argv[1]))"
        outcomes, said = self._run(_tasks(tmp_path, script, 3), 1)
        assert [(o.task.name, o.code) for o in outcomes] == [("t0", 0), ("t1", 1), ("t2", 2)]
        assert pool.last_lines(tmp_path / "t1", 5) == ["out", "of"]
        assert re.search("3/3 .*2 failed, running nothing", said)

    def test_a_task_that_runs_elsewhere_is_left_alone(self, tmp_path):
        (task,) = _tasks(tmp_path, "import time; print('here', flush=True); time.sleep(60)", 1)
        process = pool.start(task)
        try:
            _wait(lambda: pool.last_lines(task.folder, 1) == ["here"])
            outcomes, _ = self._run([task], 1)
            assert [o.code for o in outcomes] == [None]
        finally:
            process.kill()
            process.wait()
        again = pool.start(task)  # the lock ended with its holder
        again.kill()
        assert again.wait() == -signal.SIGKILL

    def test_an_interruption_ends_what_runs_and_says_so(self, tmp_path, monkeypatch):
        ended = []

        def interrupt(_):
            monkeypatch.undo()
            os.kill(os.getpid(), signal.SIGINT)

        monkeypatch.setattr(time, "sleep", interrupt)
        with pytest.raises(KeyboardInterrupt):
            pool.run(_tasks(tmp_path, "import time; time.sleep(60)", 2), 1, ended.append)
        assert [(o.task.name, o.code) for o in ended] == [("t0", -signal.SIGTERM)]


_DATA = {"name": "toy", "sha256": {"events": "0", "items": "1", "users": "2"}}


class TestSharing:
    """What a finished run has trained with equal settings is copied to one that starts."""

    CONFIG = "configs/hybrid.py:synthetic,smoke,rows=base+nif+amen+genci"
    STAGES = (
        "amen",
        "base",
        "generator",
        "generator_without_0_of_2",
        "genci",
        "lr",
        "nif",
        "tokenizer",
    )

    @pytest.fixture(autouse=True)
    def _identity(self, monkeypatch):
        monkeypatch.setattr(jobs, "load_identity", lambda _: _DATA)

    def _workdir(self, folder, stages=()):
        config = flatten(jobs.build_config([f"--config={self.CONFIG}"]).to_dict())
        (folder / "seed_0").mkdir(parents=True)
        files.write_json(folder / "config.json", config)
        if stages:
            files.write_json(folder / "data.json", _DATA)
        for stage in stages:
            (folder / "seed_0" / stage / "best").mkdir(parents=True)
            (folder / "seed_0" / stage / "best" / "array").write_text(stage)
        lines = [json.dumps(_record(stage, 1.0)) + "\n" for stage in stages]
        (folder / "seed_0" / "metrics.jsonl").write_text("".join(lines))
        return folder, config

    @pytest.mark.parametrize(
        ("key", "trained_again"),
        [
            ("eval.resamples", {"amen", "genci", "nif"}),  # shapes no stage, but rows may see it
            ("num_seeds", set()),
            ("ab.slate", set()),
            ("tsp.weight", {"amen"}),
            ("genci.beams", {"genci"}),
            ("flow.generator_item_emb", {"amen", "nif"}),
            ("flow.horizon", {"generator", "generator_without_0_of_2", "amen", "nif"}),
            ("pretrain.epochs", {"generator", "generator_without_0_of_2", "amen", "nif"}),
            ("content.dim", {"genci", "tokenizer"}),
            ("ranker.dropout", set(STAGES) - {"lr", "tokenizer"}),
            ("data.label_share", set(STAGES) - {"lr"}),
        ],
    )
    def test_what_is_shaped_by_no_key_that_differs(self, key, trained_again, tmp_path):
        other, _ = self._workdir(tmp_path / "other", self.STAGES)
        own, config = self._workdir(tmp_path / "own")
        found = jobs.reuse_stages(own, config | {key: 7}, [other])
        wanted = sorted(set(self.STAGES) - {"lr"} - trained_again)  # lr is no row of the run
        assert found == [f"seed_0/{stage} from other" for stage in wanted]
        assert sorted(p.name for p in (own / "seed_0").iterdir() if p.is_dir()) == wanted
        for stage in wanted:
            assert (own / "seed_0" / stage / "best" / "array").read_text() == stage
        records = writer.read_metrics(own / "seed_0" / "metrics.jsonl") if wanted else []
        assert [record["stage"] for record in records] == wanted

    @pytest.mark.parametrize("damage", ["other data", "data.json", "config.json"])
    def test_nothing_comes_from_other_data_or_a_damaged_run(self, damage, tmp_path):
        other, config = self._workdir(tmp_path / "other", ("base",))
        good, _ = self._workdir(tmp_path / "good", ("base",))
        if damage == "other data":
            others = _DATA["sha256"] | {"items": "changed"}
            files.write_json(other / "data.json", _DATA | {"sha256": others})
        else:
            (other / damage).write_text("{")
        own, _ = self._workdir(tmp_path / "own")
        assert jobs.reuse_stages(own, config, [other]) == []
        assert jobs.reuse_stages(own, config, [other, good]) == ["seed_0/base from good"]

    def test_what_is_begun_stays_and_what_was_cut_short_is_made_good(self, tmp_path):
        other, config = self._workdir(tmp_path / "other", ("base", "nif", "tokenizer"))
        workdir, _ = self._workdir(tmp_path / "own", ("nif",))
        own = workdir / "seed_0" / "nif" / "best" / "array"
        own.write_text("begun here")
        (workdir / "seed_0" / "base.part").mkdir()  # killed while it copied
        torn = [_record("nif", 1.0), _record("base", 2.0)]
        (workdir / "seed_0" / "metrics.jsonl").write_text(
            "".join(json.dumps(record) + "\n" for record in torn) + '{"step"'
        )
        found = jobs.reuse_stages(workdir, config, [other])
        assert found == ["seed_0/base from other", "seed_0/tokenizer from other"]
        assert own.read_text() == "begun here"
        assert not list(workdir.rglob("*.part"))
        records = writer.read_metrics(workdir / "seed_0" / "metrics.jsonl")
        assert records == [_record(stage, 1.0) for stage in ("nif", "base", "tokenizer")]
        assert jobs.reuse_stages(workdir, config, [other]) == []


def _record(stage, loss):
    return {"step": 1, "stage": stage, "time": 0.0, "values": {"loss": loss}}


class TestCommand:
    def test_a_failure_is_reported_the_rest_gathered_and_a_second_call_resumes(self, tmp_path):
        sweep = _sweep(tmp_path, a=1, bad=13, c=2)
        said = _run(tmp_path, sweep, "--jobs=2", code=1)
        assert re.search(r"synthetic-bad ended with exit code 3(.|\n)* error: a bad number", said)
        text = (tmp_path / "results" / "toy.md").read_text()
        assert text.startswith("# toy: Toy question?\n")
        assert "2 of 3 runs are finished" in text and "synthetic-bad: to do" in text
        assert re.search(r"\| synthetic-a .* 0\.5100 ", text)
        assert str(tmp_path) not in text.replace(f"--sweep={sweep}", "")
        again = _run(tmp_path, _sweep(tmp_path, a=1, bad=3, c=2))
        assert "synthetic-a: finished" in again and "Gathered 3 of 3 runs" in again
        attempts = (tmp_path / "runs" / "attempts.jsonl").read_text().splitlines()
        trained = [(json.loads(line)["run"], json.loads(line)["code"]) for line in attempts]
        assert sorted(trained[:3]) == [("synthetic-a", 0), ("synthetic-bad", 3), ("synthetic-c", 0)]
        assert trained[3:] == [("synthetic-bad", 0)]
        text = (tmp_path / "results" / "toy.md").read_text()
        assert re.search(r"\| synthetic-bad .* 0\.5300 ", text)
        assert "commits c0ffee;" in text and "seeds 1, 2, 3;" in text

    def test_ctrl_c_ends_the_runs_and_the_same_command_goes_on(self, tmp_path):
        command, environment = _command(tmp_path, _sweep(tmp_path, slow=60))
        process = subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE)
        log = tmp_path / "runs" / "synthetic-slow" / "log.txt"
        _wait(lambda: log.exists() and "training" in log.read_text())
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 128 + signal.SIGINT and "goes on from here" in said
        assert not (tmp_path / "results").exists()
        (log.parent / "again").touch()  # the stub's checkpoint
        assert "Gathered 1 of 1" in _run(tmp_path, _sweep(tmp_path, slow=60))

    def test_shows_what_it_would_do_and_does_nothing(self, tmp_path):
        sweep = _sweep(tmp_path, a=1, b=2)
        said = _run(tmp_path, sweep, "--dry_run", "--config.train.epochs=3", stub=False)
        words = shlex.split(said.split("synthetic-b: to do\n")[1])
        assert words == [
            sys.executable,
            "-m",
            "nif_jax.main",
            "--config=configs/base.py:synthetic,seed=2",
            f"--workdir={tmp_path / 'runs' / 'synthetic-b'}",
            "--config.train.epochs=3",
        ]
        only = _run(tmp_path, sweep, "--dry_run", "--only=*-b", stub=False)
        assert "synthetic-a" not in only and shlex.split(only)[3:] == words[:-1]
        assert not (tmp_path / "runs").exists()

    @pytest.mark.parametrize(
        ("more", "message"),
        [
            (["--only=d*"], "--only=d* matches no run. There are synthetic-a."),
            (["--config.tsp.weight=1"], "no such key in --config.<key>=<value>: 'tsp'"),
            (["--jbs=2"], "FATAL Flags parsing error: Unknown command line flag 'jbs'"),
            (["--config.seed", "1"], "what is '1'? Write --config.<key>=<value>"),
        ],
    )
    def test_refuses_what_it_does_not_know(self, more, message, tmp_path):
        assert message in _run(tmp_path, _sweep(tmp_path, a=1), *more, code=1)
        assert not (tmp_path / "runs").exists()

    def test_two_real_runs_at_once_make_one_table(self, tmp_path, monkeypatch):
        monkeypatch.setenv("NIF_JAX_CACHE", str(tmp_path / "cache"))
        words = TINY.removeprefix("synthetic,smoke,").split(",")
        settings = dict(word.split("=") for word in words) | {"xla_flags": ""}
        variants = {"full": {}, "thin": {"data.label_share": 0.5}}
        first = repr(variants)
        sweep = tmp_path / "tiny.py"
        sweep.write_text(
            '"""Do half of the labels do?"""\nfrom configs.sweeps import common\n\n\n'
            "def get_sweep():\n"
            f'    return common.grid("configs/base.py", ("synthetic",), {variants!r}, '
            f'{settings!r}, reference="full")\n'
        )
        said = _run(tmp_path, sweep, "--config.xla_flags=", stub=False)
        assert "running synthetic-full, synthetic-thin" in said
        text = (tmp_path / "results" / "tiny.md").read_text()
        for name in ("full", "thin"):
            found = results.read_results(tmp_path / "runs" / f"synthetic-{name}")
            auc = f"{found['rows'][0]['auc']:.4f}"
            assert re.search(rf"\| synthetic-{name} .*\| base .* {auc} ", text)
            assert "item_age_days" in found["buckets"]
        assert re.search(r"\| frozen .* AUC, pt .* synthetic-thin .* base of synthetic-full ", text)
        assert re.search(r"\| synthetic-thin \| base +\| 1 +\| auc ", text)
        # A run that differs in what the base does not see takes the base that is there: same bits.
        variants["prior"] = {"baselines.prior": 3.0, "rows": ("base", "popularity")}
        sweep.write_text(sweep.read_text().replace(first, repr(variants)))
        said = _run(tmp_path, sweep, "--config.xla_flags=", stub=False)
        assert "synthetic-prior: seed_0/base from synthetic-full" in said
        log = (tmp_path / "runs" / "synthetic-prior" / "log.txt").read_text()
        assert re.search(r"popularity \d+/\d+", log) and not re.search(r"base \d+/\d+", log)
        taken, own = (
            [
                row | {"peak_rss_bytes": 0}
                for row in results.read_results(folder)["rows"]
                if row["model"] == "base"
            ]
            for folder in (tmp_path / "runs").glob("synthetic-[fp]*")
        )
        assert taken == own
