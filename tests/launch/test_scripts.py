"""The launch scripts, with stand-ins for python and srun: no network, nothing installed."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from tests.launch.stand_ins import (
    LAUNCH,
    ROOT,
    SCRIPTS,
    environment_with,
    executable,
    records_of,
    run,
    wait_for,
)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_script_parses(script):
    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


class TestFindPython:
    """Stand-ins answer the two questions that python_fault asks."""

    def _python(self, path, version, has_venv=True):
        executable(
            path,
            f"""
            #!/bin/sh
            case "$2" in *version_info*) echo {version} ;; *) exit {0 if has_venv else 1} ;; esac
        """,
        )

    def _find(self, folders, code=0, **more):
        """Only the stand-ins are on PATH."""
        environment = {"PATH": ":".join(map(str, folders)), **more}
        script = f"source '{LAUNCH}/setup_venv.sh'; find_python"
        return run(["/bin/bash", "-c", script], environment, code)

    def test_prefers_what_is_tested(self, bin_folder):
        for version in ("3.13", "3.12", "3.11"):
            self._python(bin_folder / f"python{version}", version)
        assert self._find([bin_folder]).stdout == f"{bin_folder}/python3.11\n"

    def test_a_name_proves_nothing(self, bin_folder, tmp_path):
        shims = tmp_path / "shims"
        executable(shims / "python3.11", "#!/bin/sh\necho 'no such version' >&2; exit 127\n")
        self._python(shims / "python3.12", "3.12", has_venv=False)
        self._python(shims / "python3", "3.8")
        self._python(bin_folder / "python3", "3.14")
        assert self._find([shims, bin_folder]).stdout == f"{bin_folder}/python3\n"

    def test_says_what_was_tried(self, bin_folder):
        self._python(bin_folder / "python3", "3.10")
        self._python(bin_folder / "python3.12", "3.12", has_venv=False)
        self._python(bin_folder / "python", "2.7")
        error = self._find([bin_folder], code=1).stderr
        assert "needs Python 3.11 or newer" in error
        assert f"{bin_folder}/python3 is Python 3.10, older than 3.11\n" in error
        assert f"{bin_folder}/python is Python 2.7, older than 3.11\n" in error
        assert f"{bin_folder}/python3.12 lacks the venv module" in error

    def test_a_named_python_is_used_or_refused(self, bin_folder, tmp_path):
        self._python(bin_folder / "python3.11", "3.11")
        self._python(tmp_path / "good", "3.12")
        self._python(tmp_path / "old", "3.9")
        assert self._find([bin_folder], PYTHON=f"{tmp_path}/good").stdout == f"{tmp_path}/good\n"
        refused = self._find([bin_folder], code=1, PYTHON=f"{tmp_path}/old")
        assert "old is Python 3.9, older than 3.11." in refused.stderr
        absent = self._find([bin_folder], code=1, PYTHON=f"{tmp_path}/absent")
        assert "absent does not run." in absent.stderr


@pytest.fixture
def checkout(tmp_path, bin_folder):
    """A copy of the launchers in a folder with a space, and a python that only takes notes."""
    root = tmp_path / "a checkout"
    for script in [*SCRIPTS, ROOT / "setup.py", ROOT / "pyproject.toml"]:
        copy = root / script.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(script.read_bytes())
    executable(
        bin_folder / "python3.11",
        f"""
        #!{sys.executable}
        import json, os, pathlib, shutil, sys
        arguments = sys.argv[1:]
        if arguments[0] == "-c":
            print("3.11" if "version_info" in arguments[1] else "")
            sys.exit(0)
        environment = {{k: v for k, v in os.environ.items() if k == "JAX_LOCAL_DEVICE_IDS"}}
        with open("{tmp_path}/python.log", "a") as log:
            print(json.dumps([*arguments, environment] if environment else arguments), file=log)
        if arguments[1:3] == ["venv", "--clear"]:
            shutil.rmtree(arguments[-1], ignore_errors=True)
            python = pathlib.Path(arguments[-1], "bin", "python")
            python.parent.mkdir(parents=True)
            shutil.copy(__file__, python)
        sys.exit(int(os.environ.get("FAIL_" + arguments[1].partition(".")[0], "0")))
    """,
    )
    return root


class TestVirtualEnvironment:
    def _setup(self, checkout, bin_folder, code=0, **more):
        """What was done: (whether a venv was made, what was installed, stderr)."""
        log = bin_folder.parent / "python.log"
        log.unlink(missing_ok=True)
        script = 'set -euo pipefail; source launch/setup_venv.sh; setup_venv "$PWD"'
        done = run(["bash", "-c", script], environment_with(bin_folder, **more), code, cwd=checkout)
        records = records_of(log)
        installs = [r[-1] for r in records if r[1] == "pip"]
        return any(r[1] == "venv" for r in records), installs, done.stderr

    def test_installs_once_and_again_when_the_packaging_changes(self, checkout, bin_folder):
        assert self._setup(checkout, bin_folder)[:2] == (True, [f"{checkout}[test]"])
        assert self._setup(checkout, bin_folder)[:2] == (False, [])
        for name in ("setup.py", "pyproject.toml"):
            with open(checkout / name, "a") as file:
                file.write("# changed\n")
            assert self._setup(checkout, bin_folder)[:2] == (False, [f"{checkout}[test]"])
            assert self._setup(checkout, bin_folder)[:2] == (False, [])
        more = {"NIF_JAX_EXTRAS": "test,cuda"}
        assert self._setup(checkout, bin_folder, **more)[:2] == (False, [f"{checkout}[test,cuda]"])

    def test_a_failed_installation_is_tried_again(self, checkout, bin_folder):
        made, installs, error = self._setup(checkout, bin_folder, code=1, FAIL_pip="1")
        assert (made, len(installs)) == (True, 1)
        assert "error: pip could not install nif_jax[test]" in error
        assert self._setup(checkout, bin_folder)[:2] == (False, [f"{checkout}[test]"])

    def test_a_broken_environment_is_made_again(self, checkout, bin_folder):
        self._setup(checkout, bin_folder)
        (checkout / ".venv" / "bin" / "python").unlink()
        (checkout / ".venv" / "bin").rmdir()
        assert self._setup(checkout, bin_folder)[:2] == (True, [f"{checkout}[test]"])

    def test_another_folder(self, checkout, bin_folder, tmp_path):
        self._setup(checkout, bin_folder, NIF_JAX_VENV=f"{tmp_path}/elsewhere")
        assert (tmp_path / "elsewhere" / "bin" / "python").exists()
        assert not (checkout / ".venv").exists()


class TestRunAndTest:
    """run.sh, test.sh, .ci/run and slurm.sbatch, from a folder that is not the checkout."""

    def _call(self, checkout, bin_folder, script, *arguments, code=0, **more):
        environment = environment_with(bin_folder, **more)
        cwd = bin_folder.parent
        run(["bash", str(checkout / script), *arguments], environment, code, cwd=cwd)
        return [r for r in records_of(cwd / "python.log") if r[1] not in ("venv", "pip")]

    def test_run_has_a_default_config(self, checkout, bin_folder):
        note = "--config.note=a b, 'c' $HOME"
        calls = self._call(checkout, bin_folder, "launch/run.sh", note)
        assert calls == [["-m", "nif_jax.main", "--config=configs/nif.py", note]]

    @pytest.mark.parametrize("config", [["--config=configs/x.py:a,b"], ["--config", "c.py"]])
    def test_run_takes_another_config(self, checkout, bin_folder, config):
        calls = self._call(checkout, bin_folder, "launch/run.sh", "--workdir=w", *config)
        assert calls == [["-m", "nif_jax.main", "--workdir=w", *config]]

    def test_test_lints_and_tests(self, checkout, bin_folder):
        calls = self._call(checkout, bin_folder, "launch/test.sh", "tests", "-k", "a or b")
        assert calls[:4] == [
            ["-m", "ruff", "check", "."],
            ["-m", "ruff", "format", "--check", "--quiet", "."],
            ["-m", "codespell_lib", "."],
            ["-m", "mypy"],
        ]
        assert calls[4][:3] == ["-m", "pytest", "-q"]
        assert calls[4][-3:] == ["tests", "-k", "a or b"]

    def test_refresh_runs_sweeps_that_lend_to_each_other(self, checkout, bin_folder, tmp_path):
        arguments = (str(tmp_path), "runs/new")
        calls = self._call(checkout, bin_folder, "launch/refresh.sh", *arguments, JOBS="3")
        files = [pathlib.Path(call[1].partition("=")[2]) for call in calls]
        sweeps = {path.stem for path in (ROOT / "configs" / "sweeps").glob("[a-z]*.py")}
        assert {file.stem for file in files} == sweeps - {"common", "from_flags"}
        assert calls[0] == [
            "launch/sweep.py",
            "--sweep=configs/sweeps/main.py",
            f"--data={tmp_path}",
            "--workdir=runs/new/main",
            "--reuse_from=runs/new",
            "--jobs=3",
        ]

    def test_refresh_wants_the_data(self, checkout, bin_folder, tmp_path):
        absent = str(tmp_path / "absent")
        assert self._call(checkout, bin_folder, "launch/refresh.sh", absent, code=1) == []

    def test_refresh_goes_on_after_a_sweep_that_failed_and_says_so(self, checkout, bin_folder):
        self._call(checkout, bin_folder, "launch/run.sh")
        python = checkout / ".venv" / "bin" / "python"
        executable(python, '#!/bin/sh\necho "$2"; case "$2" in *main*) exit 1; esac\n')
        environment = environment_with(bin_folder, SWEEPS="main labels")
        command = ["bash", str(checkout / "launch" / "refresh.sh"), str(checkout)]
        done = run(command, environment, code=1, cwd=checkout.parent)
        assert "main.py\n--sweep=configs/sweeps/labels.py\n" in done.stdout
        assert "error: not finished: main. The same command goes on" in done.stderr

    @pytest.mark.parametrize("tool", ["ruff", "codespell_lib", "mypy", "pytest"])
    def test_failures_fail(self, checkout, bin_folder, tool):
        self._call(checkout, bin_folder, "launch/test.sh", code=3, **{f"FAIL_{tool}": "3"})
        self._call(checkout, bin_folder, ".ci/run", code=3, **{f"FAIL_{tool}": "3"})

    def test_ci_uses_a_fresh_environment_and_removes_it(self, checkout, bin_folder, tmp_path):
        temporary = tmp_path / "temporary"
        temporary.mkdir()
        calls = self._call(checkout, bin_folder, ".ci/run", TMPDIR=str(temporary))
        assert [call[1] for call in calls] == ["ruff", "ruff", "codespell_lib", "mypy", "pytest"]
        venv = next(r for r in records_of(tmp_path / "python.log") if r[1] == "venv")[-1]
        assert venv.startswith(f"{temporary}/")
        assert list(temporary.iterdir()) == []
        assert not (checkout / ".venv").exists()

    @pytest.mark.parametrize(
        ("slurm", "devices", "requeue"),
        [
            ({"SLURM_GPUS_ON_NODE": "4"}, [{"JAX_LOCAL_DEVICE_IDS": "0,1,2,3"}], ""),
            ({"SLURM_GPUS_ON_NODE": "4", "SLURM_NTASKS_PER_NODE": "4"}, [], ""),
            ({"SLURM_GPUS_ON_NODE": "1"}, [], ""),
            ({}, [], ""),
            ({"SLURM_JOB_END_TIME": "+3600", "SLURM_JOB_ID": "7"}, [], ""),
            ({"SLURM_JOB_END_TIME": "+100", "SLURM_JOB_ID": "7"}, [], "requeue 7\n"),
        ],
    )
    def test_slurm(self, checkout, bin_folder, tmp_path, slurm, devices, requeue):
        executable(
            bin_folder / "srun",
            """
            #!/bin/bash
            [[ "$1" == --kill-on-bad-exit=1 ]] && exec "${@:2}"
        """,
        )
        executable(bin_folder / "scontrol", f'#!/bin/sh\necho "$@" >> {tmp_path}/scontrol.log\n')
        spool = tmp_path / "spool" / "script"
        spool.parent.mkdir()
        spool.write_bytes((LAUNCH / "slurm.sbatch").read_bytes())
        more = {"SLURM_SUBMIT_DIR": str(checkout), **slurm}
        if "SLURM_JOB_END_TIME" in more:  # seconds from now
            more["SLURM_JOB_END_TIME"] = str(int(time.time() + int(more["SLURM_JOB_END_TIME"])))
        calls = self._call(checkout, bin_folder, spool, "--config=a b", **more)
        assert calls == [["-m", "nif_jax.main", "--config=a b", *devices]]
        requeued = tmp_path / "scontrol.log"
        assert (requeued.read_text() if requeued.exists() else "") == requeue

    def test_slurm_wants_to_start_in_the_checkout(self, checkout, bin_folder, tmp_path):
        more = {"SLURM_SUBMIT_DIR": str(tmp_path)}
        assert self._call(checkout, bin_folder, "launch/slurm.sbatch", code=1, **more) == []


class TestLocalCluster:
    def _command(self, tmp_path, target, *options):
        path = tmp_path / "target.py"
        path.write_text(textwrap.dedent(target))
        command = f"--command='{sys.executable}' '{path}'"
        return [sys.executable, str(LAUNCH / "local_cluster.py"), command, *options]

    def _gone(self, path):
        """Whether the process that wrote its id there is no more."""
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.read_text()), 0)

    # A process that says who it is and then sleeps, with a worker of its own.
    SLEEPER = """
        import os, pathlib, subprocess, sys, time
        number = sys.argv[-1].partition("=")[2]
        worker = subprocess.Popen(["sleep", "60"])
        folder = pathlib.Path({folder!r})
        (folder / f"worker{{number}}").write_text(str(worker.pid))
        (folder / f"process{{number}}").write_text(str(os.getpid()))
        while number == "1" and not (folder / "process0").exists():
            time.sleep(0.01)
        {then}
        time.sleep(60)
    """

    def test_processes_know_each_other(self, tmp_path):
        target = """
            import json, os, sys
            names = ("JAX_PLATFORMS", "XLA_FLAGS")
            print(json.dumps([sys.argv[1:], {name: os.environ[name] for name in names}]))
            print("to stderr", file=sys.stderr)
        """
        flags = "--xla_one=1 --xla_force_host_platform_device_count=7 --xla_two=2"
        environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "tpu"}
        options = ["--processes=3", "--devices_per_process=2", "--", "--config=a b,c", "--x"]
        done = run(self._command(tmp_path, target, *options), environment)
        lines = sorted(done.stdout.splitlines())
        assert [line for line in lines if "stderr" in line] == [
            "[0] to stderr",
            "[1] to stderr",
            "[2] to stderr",
        ]
        coordinators = set()
        for number, line in enumerate(line for line in lines if "stderr" not in line):
            prefix, _, text = line.partition(" ")
            arguments, seen = json.loads(text)
            coordinators.add(arguments.pop(2))
            assert prefix == f"[{number}]"
            assert arguments == [
                "--config=a b,c",
                "--x",
                "--num_processes=3",
                f"--process_id={number}",
            ]
            assert seen["JAX_PLATFORMS"] == "cpu"
            assert seen["XLA_FLAGS"] == (
                "--xla_one=1 --xla_two=2 --xla_force_host_platform_device_count=2"
            )
        (coordinator,) = coordinators
        assert re.fullmatch(r"--coordinator=127\.0\.0\.1:\d+", coordinator)

    @pytest.mark.parametrize(
        ("then", "code"),
        [
            ("if number == '1': worker.kill(); sys.exit(3)", 3),
            ("if number == '1': worker.kill(); os.kill(os.getpid(), 9)", 128 + 9),
        ],
    )
    def test_a_failure_ends_the_others(self, tmp_path, then, code):
        target = self.SLEEPER.format(folder=str(tmp_path), then=then)
        started = time.monotonic()
        done = run(self._command(tmp_path, target), os.environ, code)
        assert time.monotonic() - started < 30
        assert "process 1 failed" in done.stderr
        self._gone(tmp_path / "process0")
        wait_for(lambda: self._ended(tmp_path / "worker0"))

    def _ended(self, path):
        """Whether a process is gone, or only waits for someone to notice that it is."""
        try:
            status = pathlib.Path(f"/proc/{path.read_text()}/stat").read_text()
        except FileNotFoundError:
            return True
        return status.rpartition(")")[2].split()[0] == "Z"

    def test_who_does_not_end_is_killed(self, tmp_path):
        then = "if number == '1': worker.kill(); sys.exit(3)"
        target = self.SLEEPER.format(folder=str(tmp_path), then=then)
        target = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + (
            textwrap.dedent(target)
        )
        started = time.monotonic()
        run(self._command(tmp_path, target, "--grace_seconds=0.3"), os.environ, 3)
        assert time.monotonic() - started < 30  # left alone, it would end after 60
        self._gone(tmp_path / "process0")

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_interrupts_end_all(self, tmp_path, number):
        target = self.SLEEPER.format(folder=str(tmp_path), then="")
        command = self._command(tmp_path, target)
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as cluster:
            wait_for(lambda: all((tmp_path / f"process{i}").exists() for i in (0, 1)))
            cluster.send_signal(number)
            assert cluster.wait(30) == 128 + number
        for i in (0, 1):
            self._gone(tmp_path / f"process{i}")
